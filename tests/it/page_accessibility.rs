//! The operators' page without a mouse, and for readers of all kinds.

use serde_json::json;

use crate::browser::{Browser, NARROW, WIDE};
use crate::page::{ENTER, Load, TOKEN, open};
use crate::support::Server;

const TAB: char = '\u{e004}';
const SPACE: char = ' ';
const ARROW_LEFT: char = '\u{e012}';

#[tokio::test]
async fn the_page_is_usable_by_keyboard_and_pauses() {
    let server = Server::start(&[]).await;
    let browser = open(&server).await;
    let load = Load::start(&server);
    browser.wait_for("accepted jobs", async || browser.number("[data-part=accepted] [data-jobs]").await > 0.0).await;
    let mut stops = Vec::new();
    for _ in 0..40 {
        browser.press(TAB).await;
        let stop = browser.run(FOCUSED).await;
        if stop["name"] == "header BODY" {
            // Between the last element and the first.
            continue;
        }
        assert_eq!(stop["visible"], true, "the focus is not visible on {stop}");
        if stops.contains(&stop["name"]) {
            break;
        }
        stops.push(stop["name"].clone());
    }
    for name in ["header skip", "header window", "header pause", "traffic plot", "tenants scroll", "rejections scroll"]
    {
        assert!(stops.iter().any(|stop| stop == name), "{name} is not reached by Tab: {stops:?}");
    }

    browser.run("document.querySelector('#pause').focus()").await;
    browser.press(SPACE).await;
    browser.shows("#pause", |text| text == "Continue").await;
    let paused = browser.number("[data-part=accepted] [data-jobs]").await;
    server.metric_is("millpond_jobs_accepted_total", |jobs| jobs > paused + 300.0).await;
    assert!(browser.number("[data-part=accepted] [data-jobs]").await <= paused, "it moved while it was paused");
    browser.press(SPACE).await;
    browser.wait_for("newer jobs", async || browser.number("[data-part=accepted] [data-jobs]").await > paused).await;

    browser.run("document.querySelector('#window input:checked').focus()").await;
    browser.press(ARROW_LEFT).await;
    assert_eq!(browser.run("return document.querySelector('#window input:checked').value").await, "60");
    browser.run("document.querySelector('#traffic-chart .plot').focus()").await;
    browser.press(ARROW_LEFT).await;
    let cursor = "return getComputedStyle(document.querySelector('#traffic-chart .u-cursor-x')).transform !== 'none'";
    browser.wait_for("the cursor of the chart", async || browser.run(cursor).await == true).await;
    load.stop().await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

/// The focused element: a name of it, and whether it is outlined.
const FOCUSED: &str = "const focused = document.activeElement;
    const outlined = focused.matches('#window input') ? focused.nextElementSibling : focused;
    const own = focused.name || focused.id || focused.classList[0] || focused.tagName;
    return {name: `${focused.closest('section')?.id ?? 'header'} ${own}`,
        visible: getComputedStyle(outlined).outlineStyle !== 'none'};";

#[tokio::test]
async fn every_control_has_a_name_and_every_text_has_contrast() {
    let server = Server::start(&[("ADMIN_TOKEN", TOKEN)]).await;
    server.post("", b"[1]").await;
    let browser = Browser::start().await;
    browser.open(server.admin).await;
    browser.shows("#login-title", |title| !title.is_empty()).await;
    for theme in ["light", "dark"] {
        browser.show_as(NARROW, theme).await;
        assert_eq!(browser.run(CONTRAST).await, json!([]), "the token form, {theme}");
    }
    browser.enter("#token", &format!("{TOKEN}{ENTER}")).await;
    browser.shows("#rejection-table tbody", |rows| rows.contains("400")).await;
    for theme in ["light", "dark"] {
        browser.show_as(WIDE, theme).await;
        assert_eq!(browser.run(CONTRAST).await, json!([]), "{theme}");
    }
    let controls = "header button:not([hidden]), input, main [tabindex], [role=meter], section, table";
    for (role, name) in browser.names(controls).await {
        assert!(role == "none" || role == "generic" || !name.is_empty(), "a {role} has no name");
    }
    let headings = browser.run("return [...document.querySelectorAll('main h2')].map((heading) => heading.id)").await;
    let expected = [
        "verdict",
        "ledger",
        "traffic",
        "latency",
        "errors",
        "saturation",
        "packing",
        "tenants",
        // Hidden without a rollout.
        "rollout",
        "objects",
        "rejections",
    ];
    assert_eq!(headings, json!(expected.map(|name| format!("{name}-title"))), "the order of the page");
}

/// The visible texts whose contrast is below 4.5 (WCAG 2.2, 1.4.3).
const CONTRAST: &str = "const parts = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = color.map((part) => part / 255)
            .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const color = parts(getComputedStyle(at).backgroundColor);
            if (color.length === 3) return color;
        }
        return [255, 255, 255];
    };
    const hasText = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const shown = [...document.querySelectorAll('body *')].filter((element) =>
        hasText(element) && element.checkVisibility() && !element.closest('.skip, .hidden, script, noscript'));
    return shown.flatMap((element) => {
        const [one, two] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
        return contrast < 4.5 ? [`${element.tagName} ${element.textContent.trim().slice(0, 30)}: ${contrast}`] : [];
    });";

//! The operators' page in a real browser.

use loadtest::load::{Control, Plan, Rate, Shape};
use loadtest::s3::{Fault, FaultPlan, S3Server};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::browser::{Browser, NARROW, WIDE};
use crate::support::{Connection, Server, get};
use crate::two_versions::RolloutFile;

pub(crate) const TOKEN: &str = "correct-horse-battery";
pub(crate) const ENTER: &str = "\u{e007}";

/// A load of 200 requests a second until it is dropped.
pub(crate) struct Load {
    control: Control,
    running: JoinSet<anyhow::Result<loadtest::load::Done>>,
}

impl Load {
    pub(crate) fn start(server: &Server) -> Self {
        let control = Control::default();
        let plan =
            Plan { rate: Rate::steady(200.0), connections: 4, shape: Shape::Even(5), ..Plan::new(server.public) };
        let mut running = JoinSet::new();
        running.spawn(loadtest::load::run(plan, control.clone(), |_| {}));
        Self { control, running }
    }

    /// Ends it; the number of payloads that were accepted.
    pub(crate) async fn stop(mut self) {
        self.control.end.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
    }
}

impl Drop for Load {
    /// A test that fails would otherwise wait for the threads of the load.
    fn drop(&mut self) {
        self.control.end.cancel();
    }
}

pub(crate) async fn open(server: &Server) -> Browser {
    let browser = Browser::start().await;
    browser.open(server.admin).await;
    browser.shows("#phase", |phase| phase == "Live").await;
    browser
}

/// Whether the page is wider than the window.
async fn scrolls_sideways(browser: &Browser) -> bool {
    let page = browser.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth").await;
    page.as_bool().unwrap()
}

#[tokio::test]
async fn the_page_shows_what_a_load_does() {
    let mut server = Server::start(&[("OBJECT_MAX_AGE", "500ms")]).await;
    let browser = open(&server).await;
    browser.shows("#verdict-title", |title| title == "Ready").await;
    let load = Load::start(&server);

    let jobs = "[data-part=accepted] [data-jobs]";
    browser.wait_for("accepted jobs", async || browser.number(jobs).await > 0.0).await;
    let before = browser.number(jobs).await;
    browser.wait_for("more accepted jobs", async || browser.number(jobs).await > before).await;
    browser.wait_for("stored jobs", async || browser.number("[data-part=stored] [data-jobs]").await > 0.0).await;
    browser.shows("#ledger-notes", |notes| notes.contains("balanced")).await;
    browser.wait_for("requests per second", async || browser.number("#rates dd").await > 50.0).await;
    browser.shows("#outcomes", |outcomes| outcomes.contains("accepted")).await;
    browser.shows("#latencies tbody tr td:nth-child(4)", |p99| p99.ends_with("ms") || p99.ends_with("µs")).await;
    browser.shows("#limits", |limits| limits.contains("Connections") && limits.contains("MAX_CONNECTIONS")).await;
    browser.wait_for("jobs per commit", async || browser.number("#pack dd:nth-of-type(1)").await > 0.0).await;
    browser.shows("#object-table tbody", |objects| objects.contains(".ndjson.gz")).await;
    browser.shows("#rejection-table tbody", |rejections| rejections.contains("No rejections")).await;
    browser.wait_for("a line in the chart", async || browser.run(PAINTED).await.as_bool().unwrap()).await;

    for (width, theme) in [(WIDE, "light"), (WIDE, "dark"), (768, "light"), (NARROW, "light"), (NARROW, "dark")] {
        browser.show_as(width, theme).await;
        let expected = json!(if theme == "dark" { "rgb(14, 17, 22)" } else { "rgb(244, 246, 248)" });
        let is_themed =
            async || browser.run("return getComputedStyle(document.body).backgroundColor").await == expected;
        browser.wait_for(theme, is_themed).await;
        browser.wait_for("a chart of the width", async || browser.run(FITTED).await.as_bool().unwrap()).await;
        assert!(!scrolls_sideways(&browser).await, "{width}");
        browser.screenshot(&format!("load-{width}-{theme}")).await;
    }
    assert_eq!(browser.console().await, Vec::<String>::new());
    load.stop().await;
    drop(browser);
    assert_eq!(server.stop().await, Some(0));
}

/// Whether the line of accepted batches is on the chart of the traffic.
const PAINTED: &str = "const canvas = document.querySelector('#traffic-chart canvas');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    for (let at = 0; at < pixels.length; at += 4)
        if (pixels[at] === 15 && pixels[at + 1] === 118 && pixels[at + 2] === 110 && pixels[at + 3] === 255) return true;
    return false;";

/// Whether every chart is as wide as its panel.
const FITTED: &str = "return [...document.querySelectorAll('.plot')].every((plot) =>
    Math.abs(plot.firstElementChild.getBoundingClientRect().width - plot.getBoundingClientRect().width) <= 1);";

#[tokio::test]
async fn a_rejected_batch_is_shown_with_its_reason_and_its_text_is_never_markup() {
    let server = Server::start(&[]).await;
    let browser = open(&server).await;
    let id = "<img/src=x/onerror=window.hacked=1>";
    let name = "<img src=x onerror=hacked=1>";
    let answer =
        server.post(&format!("X-Request-Id: {id}\r\n"), format!("[{{\"{name}\":1,\"{name}\":2}}]").as_bytes()).await;
    let detail = answer.refusal(400);
    assert!(detail.contains(name) && answer.header("x-request-id") == id, "{detail}");

    browser.shows("#rejection-table tbody", |rows| rows.contains(&detail)).await;
    let row = browser.text("#rejection-table tbody tr").await;
    for text in ["400", "invalid", "127.0.0.1", id] {
        assert!(row.contains(text), "{text}: {row}");
    }
    browser.shows("#error-table tbody", |rows| rows.contains("invalid") && rows.contains("400")).await;
    browser.shows("#outcomes", |outcomes| outcomes.contains("invalid")).await;
    let found = browser.run("return [window.hacked ?? null, document.querySelectorAll('main img, td *').length]").await;
    assert_eq!(found, json!([null, 0]));
    browser.screenshot("rejection").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_asks_for_the_token_and_keeps_it_in_memory_only() {
    let mut server = Server::start(&[("ADMIN_ADDR", "0.0.0.0:0"), ("ADMIN_TOKEN", TOKEN)]).await;
    let browser = Browser::start().await;
    browser.open(([127, 0, 0, 1], server.admin.port()).into()).await;
    browser.shows("#login-title", |title| !title.is_empty()).await;
    assert_eq!(browser.text("main").await, "", "nothing is shown without the token");
    assert_eq!(browser.run("return document.activeElement.id").await, "token");
    browser.screenshot("token").await;

    browser.enter("#token", &format!("not-the-right-token{ENTER}")).await;
    browser.shows("#login-error", |error| error == "The token is wrong.").await;
    assert_eq!(browser.text("main").await, "");
    browser.enter("#token", TOKEN).await;
    browser.click("#login button").await;
    browser.shows("#phase", |phase| phase == "Live").await;
    browser.shows("#verdict-title", |title| title == "Ready").await;
    assert_eq!(browser.text("#login").await, "");

    let kept = "return JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href,
        document.documentElement.outerHTML, [...document.querySelectorAll('input')].map((input) => input.value)])";
    assert!(!browser.run(kept).await.as_str().unwrap().contains(TOKEN));
    let console = browser.console().await;
    assert!(console.iter().all(|line| line.contains("network") && line.contains("401")), "{console:?}");
    assert_eq!(console.len(), 2, "{console:?}");

    browser.run("location.reload()").await;
    browser.shows("#login-title", |title| !title.is_empty()).await;
    drop(browser);
    assert_eq!(server.stop().await, Some(0));
    assert!(!server.log().contains(TOKEN));
}

#[tokio::test]
async fn the_page_says_that_data_is_stale_and_returns_to_a_restarted_server() {
    let mut server = Server::start(&[]).await;
    let admin = server.admin.to_string();
    let browser = open(&server).await;
    browser.shows("#identity", |identity| identity.contains(&format!("pid {}", server.pid()))).await;
    assert_eq!(server.stop().await, Some(0));
    browser.shows("#phase", |phase| phase.starts_with("The server shut down")).await;
    browser.shows("#age", |age| age.contains("stale data") && age.contains("next attempt")).await;
    browser.shows("#verdict-title", |title| title.starts_with("Last known: ")).await;
    assert_eq!(browser.run("return document.querySelector('main').dataset.stale").await, "true");
    browser.screenshot("stale").await;

    let server = Server::start(&[("ADMIN_ADDR", &admin)]).await;
    browser.shows("#phase", |phase| phase == "Live").await;
    browser.shows("#identity", |identity| identity.contains(&format!("pid {}", server.pid()))).await;
    browser.shows("#verdict-title", |title| title == "Ready").await;
    assert_eq!(browser.text("#age").await, "");

    server.signal(Signal::KILL);
    browser.shows("#phase", |phase| phase.starts_with("Disconnected")).await;
    browser.shows("#verdict-title", |title| title == "Last known: Ready").await;
    drop(server);
    let _server = Server::start(&[("ADMIN_ADDR", &admin)]).await;
    browser
        .wait_for("the button", async || {
            !browser.text("#retry").await.is_empty() || browser.text("#phase").await == "Live"
        })
        .await;
    browser.shows("#phase", |phase| phase == "Live").await;
    let console = browser.console().await;
    assert!(console.iter().all(|line| line.contains("\"network\"")), "{console:?}");
}

#[tokio::test]
async fn an_outage_of_the_store_is_the_verdict_with_its_beginning_and_what_the_spool_lasts() {
    let root = tempfile::tempdir().unwrap();
    let s3 = S3Server::start(root.path(), "telemetry").await.unwrap();
    let server = Server::start_with_s3(&s3, &[("OBJECT_MAX_AGE", "100ms"), ("SPOOL_MAX_BYTES", "64MiB")]).await;
    let browser = open(&server).await;
    let load = Load::start(&server);
    s3.faults().set(FaultPlan::always(Fault::AccessDenied));
    browser.shows("#verdict-title", |title| title == "Not ready: the store is unavailable").await;
    browser.shows("#verdict-since", |since| since.starts_with("since ")).await;
    browser
        .shows("#reasons", |reasons| reasons.contains("403 AccessDenied") && reasons.contains("nothing is lost"))
        .await;
    browser.shows("#spool-left", |left| left.starts_with("The spool will be full in ")).await;
    browser
        .wait_for("the tab's title", async || {
            browser.run("return document.title").await.as_str().unwrap().starts_with("Not ready")
        })
        .await;
    browser.shows("#problems", |problems| problems.contains("The store is unavailable")).await;
    browser.shows("#reasons", |reasons| reasons.contains("Batches are accepted until the spool is full")).await;
    browser.screenshot("store-away").await;
    s3.faults().set(FaultPlan::none());
    browser.shows("#verdict-title", |title| title == "Ready").await;
    load.stop().await;
    // The consequences of two reasons do not contradict each other.
    s3.faults().set(FaultPlan::always(Fault::AccessDenied));
    server.post_json("{}").await;
    browser.shows("#reasons", |reasons| reasons.contains("nothing is lost")).await;
    let drain = format!("POST /v1/drain HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n\r\n", server.admin);
    let mut connection = Connection(TcpStream::connect(server.admin).await.unwrap());
    connection.write(drain.as_bytes()).await;
    assert_eq!(connection.answer().await.unwrap().status, 202);
    browser
        .shows("#reasons", |reasons| {
            reasons.contains("New batches are rejected")
                && reasons.contains("nothing is lost")
                && !reasons.contains("Batches are accepted")
        })
        .await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_page_without_a_stream_polls_and_gets_one_when_one_is_free() {
    let server = Server::start(&[]).await;
    let mut streams = Vec::new();
    loop {
        let mut stream = Connection(TcpStream::connect(server.admin).await.unwrap());
        stream.write(format!("GET /v1/stream HTTP/1.1\r\nHost: {}\r\n\r\n", server.admin).as_bytes()).await;
        let is_open = stream.answer().await.unwrap().status == 200;
        streams.push(stream);
        assert!(streams.len() < 1000, "streams are not limited");
        if !is_open {
            break;
        }
    }
    let browser = Browser::start().await;
    browser.open(server.admin).await;
    browser.shows("#phase", |phase| phase.starts_with("Updated every 5 s: ")).await;
    browser.shows("#verdict-title", |title| title == "Ready").await;
    let jobs = browser.number("[data-part=accepted] [data-jobs]").await;
    server.post_json("{\"a\":1}").await;
    let accepted = async || browser.number("[data-part=accepted] [data-jobs]").await > jobs;
    browser.wait_for("the job in a poll", accepted).await;
    browser.screenshot("polling").await;
    drop(streams);
    browser.shows("#phase", |phase| phase == "Live").await;
    let console = browser.console().await;
    assert!(console.iter().all(|line| line.contains("\"network\"") && line.contains("v1/stream")), "{console:?}");
}

#[tokio::test]
async fn the_files_of_the_page_need_no_token_and_have_strict_headers() {
    let server = Server::start(&[("ADMIN_TOKEN", TOKEN)]).await;
    let page = get(server.admin, "/").await;
    assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'; ") && !policy.contains("unsafe"),
        "{policy}"
    );
    let text = page.text();
    let files = text.split('"').filter(|part| part.starts_with("page/"));
    for file in files.chain(["page/connection.js", "page/uplot-license.txt"]) {
        let answer = get(server.admin, &format!("/{file}")).await;
        assert_eq!(answer.status, 200, "{file}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-cache"),
            ("content-security-policy", policy),
        ] {
            assert_eq!(answer.header(name), value, "{file}");
        }
        assert!(answer.header("etag").len() > 2);
    }
    for path in
        ["/page", "/page/", "/page/app.js/", "/page/none.js", "/page/%61pp.js", "//", "/v1/status", "/v1/stream"]
    {
        assert_eq!(get(server.admin, path).await.status, 401, "{path}");
    }
}

#[tokio::test]
async fn without_a_token_the_page_is_not_served_under_a_host_name() {
    let server = Server::start(&[]).await;
    for (host, status) in [("evil.example", 421), ("localhost", 200)] {
        for path in ["/", "/page/app.js"] {
            let mut connection = Connection(TcpStream::connect(server.admin).await.unwrap());
            let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            connection.write(request.as_bytes()).await;
            assert_eq!(connection.answer().await.unwrap().status, status, "{host} {path}");
        }
    }
    let missing: Value = json!(get(server.admin, "/page/none.js").await.status);
    assert_eq!(missing, 404);
}

#[tokio::test]
async fn a_rollout_is_shown_only_where_there_is_one() {
    let plan = serde_json::json!({"features": {"receipts": {"percent": 5, "tenants": ["acme"]}}, "variants": [{"name": "b", "percent": 100}]});
    let rollout = RolloutFile::new(&plan.to_string());
    let path = rollout.path();
    let server = Server::start(&[("ROLLOUT_FILE", path.to_str().unwrap())]).await;
    let browser = open(&server).await;
    browser
        .shows("#rollout-parts", |parts| {
            parts.contains("feature receipts") && parts.contains("5% of clients and 1 tenant")
        })
        .await;
    server.post_json("{}").await;
    browser.shows("#variant-table", |table| table.contains("100%") && table.contains('1')).await;
    rollout.put(&server, &serde_json::json!({}).to_string()).await;
    browser.shows("#rollout-parts", |parts| !parts.contains("feature")).await;
}

#[tokio::test]
async fn without_a_rollout_its_section_is_hidden() {
    let server = Server::start(&[]).await;
    let browser = open(&server).await;
    let is_hidden = browser.run("return document.getElementById('rollout').hidden").await;
    assert_eq!(is_hidden, true);
}

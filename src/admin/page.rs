//! The operators' page: static files without secrets, compiled into the program. The page reads `/v1/stream` and
//! `/v1/status` with the token that it asks for.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use sha2::{Digest, Sha256};

/// A file of the page. The path of a file other than `/` begins with `/page/`.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";
const TEXT: &str = "text/plain; charset=utf-8";

macro_rules! asset {
    ($path:literal, $content_type:ident, $file:literal) => {
        Asset { path: $path, content_type: $content_type, body: include_bytes!(concat!("page/", $file)) }
    };
}

static ASSETS: [Asset; 17] = [
    asset!("/", HTML, "index.html"),
    asset!("/page/icon.svg", SVG, "icon.svg"),
    asset!("/page/style.css", CSS, "style.css"),
    asset!("/page/uplot.css", CSS, "uplot/uPlot.min.css"),
    asset!("/page/uplot.js", JS, "uplot/uPlot.iife.min.js"),
    asset!("/page/app.js", JS, "app.js"),
    asset!("/page/charts.js", JS, "charts.js"),
    asset!("/page/connection.js", JS, "connection.js"),
    asset!("/page/dom.js", JS, "dom.js"),
    asset!("/page/format.js", JS, "format.js"),
    asset!("/page/history.js", JS, "history.js"),
    asset!("/page/panels.js", JS, "panels.js"),
    asset!("/page/sse.js", JS, "sse.js"),
    asset!("/page/tables.js", JS, "tables.js"),
    asset!("/page/terms.js", JS, "terms.js"),
    asset!("/page/verdict.js", JS, "verdict.js"),
    // The licence of uPlot requires that it accompanies the copies.
    asset!("/page/uplot-license.txt", TEXT, "uplot/LICENSE"),
];

/// The page runs and loads only its own files, and cannot be framed. It assigns no markup, so that no text of a client can
/// become a script.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// The headers of every file. `no-cache` makes a browser ask with `If-None-Match`, so that an upgrade shows at once.
const HEADERS: [(HeaderName, HeaderValue); 7] = [
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    (HeaderName::from_static("content-security-policy"), HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("referrer-policy"), HeaderValue::from_static("no-referrer")),
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff")),
    (HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY")),
];

/// Whether `path` is exactly that of a file of the page, which needs no token.
pub(super) fn is_asset(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// The routes of the page's files.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    ASSETS.iter().fold(Router::new(), |routes, asset| {
        let etag = asset.etag();
        routes.route(asset.path, get(move |headers: HeaderMap| async move { asset.respond(&etag, &headers) }))
    })
}

impl Asset {
    /// Names the content (RFC 9110, 8.8.3).
    fn etag(&self) -> String {
        let digest = Sha256::digest(self.body);
        let hex: String = digest.iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }

    fn respond(&'static self, etag: &str, request: &HeaderMap) -> Response {
        let mut known = request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let is_known = known.any(|tags| tags.split(',').any(|tag| matches_weakly(tag, etag)));
        let tag = [(ETAG, etag.to_owned())];
        if is_known {
            return (StatusCode::NOT_MODIFIED, tag, HEADERS).into_response();
        }
        (tag, [(CONTENT_TYPE, self.content_type)], HEADERS, self.body).into_response()
    }
}

/// `If-None-Match` compares weakly (RFC 9110, 13.1.2).
fn matches_weakly(tag: &str, etag: &str) -> bool {
    let tag = tag.trim();
    tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn only_exact_paths_are_assets() {
        assert!(is_asset("/") && is_asset("/page/app.js"));
        for path in [
            "",
            "//",
            "/page",
            "/page/",
            "/page/app.js/",
            "/page/../metrics",
            "/PAGE/app.js",
            "/page/uplot",
            "/metrics",
        ] {
            assert!(!is_asset(path), "{path}");
        }
    }

    #[test]
    fn the_page_loads_its_own_files_only_and_every_file_is_reachable() {
        let text = |asset: &Asset| String::from_utf8(asset.body.to_vec()).unwrap();
        let all: String = ASSETS.iter().filter(|asset| !asset.path.contains("uplot.js")).map(text).collect();
        for asset in ASSETS.iter().filter(|asset| asset.path.starts_with("/page/")) {
            let name = asset.path.strip_prefix("/page/").unwrap();
            assert!(name.contains("license") || all.contains(name), "nothing loads {name}");
        }
        let page = text(&ASSETS[0]);
        for inline in ["<style", " style=", "<script>", " onclick=", "//cdn", "https://"] {
            assert!(!page.contains(inline), "{inline}");
        }
        assert!(!all.contains("innerHTML"));
    }

    #[test]
    fn a_known_etag_is_not_sent_again() {
        let asset = &ASSETS[0];
        let etag = asset.etag();
        let status = |tags: &str| {
            let headers = HeaderMap::from_iter([(IF_NONE_MATCH, HeaderValue::from_str(tags).unwrap())]);
            asset.respond(&etag, &headers).status()
        };
        for known in [etag.clone(), format!("W/{etag}"), format!("\"other\", {etag}"), "*".to_owned()] {
            assert_eq!(status(&known), StatusCode::NOT_MODIFIED, "{known}");
        }
        assert_eq!(status("\"other\""), StatusCode::OK);
    }
}

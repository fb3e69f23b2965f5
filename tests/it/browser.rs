//! A headless Chromium, driven by its chromedriver over the WebDriver protocol (W3C).

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep, timeout};

use crate::support::{Connection, PATIENCE};

/// The name of an element in WebDriver's JSON.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";
/// One browser at a time, because each needs a core and some 300 MB.
static BROWSERS: Semaphore = Semaphore::const_new(1);

/// The width of the narrowest phones that the page supports.
pub(crate) const NARROW: u32 = 360;
pub(crate) const WIDE: u32 = 1440;

pub(crate) struct Browser {
    _driver: Child,
    addr: SocketAddr,
    session: String,
    _permit: SemaphorePermit<'static>,
}

impl Browser {
    pub(crate) async fn start() -> Self {
        let permit = BROWSERS.acquire().await.unwrap();
        let mut command = Command::new("chromedriver");
        let command = command.arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut driver = command.kill_on_drop(true).spawn().unwrap_or_else(|error| match error.kind() {
            ErrorKind::NotFound => {
                panic!("the tests of the page need Chromium and its driver: apt-get install chromium chromium-driver")
            }
            _ => panic!("starting chromedriver: {error}"),
        });
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("chromedriver starts").unwrap();
            let line = line.expect("chromedriver says its port");
            if let Some((_, port)) = line.split_once("started successfully on port ") {
                break port.trim_end_matches('.').parse().unwrap();
            }
        };
        let mut browser = Self {
            _driver: driver,
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
            _permit: permit,
        };
        // As root Chromium has no sandbox; /dev/shm of a container is too small for it.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"];
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let session = browser.request("POST", "/session", &capabilities).await;
        browser.session = session["sessionId"].as_str().unwrap().to_owned();
        browser.show_as(WIDE, "light").await;
        browser
    }

    /// Sends a command and returns its value.
    async fn request(&self, method: &str, path: &str, body: &Value) -> Value {
        let mut connection = Connection(TcpStream::connect(self.addr).await.unwrap());
        connection.write(&request(self.addr, method, path, body)).await;
        let answer = timeout(PATIENCE, connection.answer()).await.expect("chromedriver responds").expect("a response");
        let value = answer.json()["value"].clone();
        assert_eq!(answer.status, 200, "{method} {path} {body}: {value}");
        value
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.request("POST", &format!("/session/{}/{path}", self.session), &body).await
    }

    async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await
    }

    pub(crate) async fn open(&self, addr: SocketAddr) {
        self.post("url", json!({"url": format!("http://{addr}/")})).await;
    }

    /// The window's width, and the theme that the user prefers: `light` or `dark`.
    pub(crate) async fn show_as(&self, width: u32, theme: &str) {
        let metrics = json!({"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500});
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Runs the body of a function in the page.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.post("execute/sync", json!({"script": script, "args": []})).await
    }

    /// The visible text of the element; empty if it is not shown.
    pub(crate) async fn text(&self, selector: &str) -> String {
        // `innerText` of an element that is not rendered is its whole text.
        let script = format!(
            "const found = document.querySelector({selector:?}); return found?.checkVisibility() ? found.innerText : ''"
        );
        self.run(&script).await.as_str().unwrap().to_owned()
    }

    /// The first number in the text of the element.
    pub(crate) async fn number(&self, selector: &str) -> f64 {
        let text = self.text(selector).await.replace(',', "");
        let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|part| !part.is_empty());
        digits.and_then(|digits| digits.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until the element has a text that fulfils `good`.
    pub(crate) async fn shows(&self, selector: &str, good: impl Fn(&str) -> bool) {
        self.wait_for(selector, async || good(&self.text(selector).await)).await;
    }

    pub(crate) async fn wait_for(&self, what: &str, mut good: impl AsyncFnMut() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !good().await {
            if Instant::now() >= deadline {
                self.screenshot("failure").await;
                panic!("the page did not show {what}: {}\n{:?}", self.text("body").await, self.console().await);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn elements(&self, selector: &str) -> Vec<String> {
        let found = self.post("elements", json!({"using": "css selector", "value": selector})).await;
        found.as_array().unwrap().iter().map(|element| element[ELEMENT].as_str().unwrap().to_owned()).collect()
    }

    /// Clicks on the element, where a user would.
    pub(crate) async fn click(&self, selector: &str) {
        let element = self.elements(selector).await.remove(0);
        self.post(&format!("element/{element}/click"), json!({})).await;
    }

    /// Types into the element. `\u{e007}` is Enter.
    pub(crate) async fn enter(&self, selector: &str, text: &str) {
        let element = self.elements(selector).await.remove(0);
        self.post(&format!("element/{element}/value"), json!({"text": text})).await;
    }

    /// Presses a key where the focus is.
    pub(crate) async fn press(&self, key: char) {
        let actions = [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        self.post("actions", json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})).await;
    }

    /// The accessible name and the role of each element that is shown.
    pub(crate) async fn names(&self, selector: &str) -> Vec<(String, String)> {
        let mut names = Vec::new();
        for element in self.elements(selector).await {
            let get = async |what: &str| {
                let path = format!("/session/{}/element/{element}/{what}", self.session);
                self.request("GET", &path, &Value::Null).await.as_str().unwrap_or_default().to_owned()
            };
            names.push((get("computedrole").await, get("computedlabel").await));
        }
        names
    }

    /// The messages in the console since the last call. The browser reports failed requests there by itself.
    pub(crate) async fn console(&self) -> Vec<String> {
        let log = self.post("se/log", json!({"type": "browser"})).await;
        let text = |entry: &Value| format!("{} {}: {}", entry["level"], entry["source"], entry["message"]);
        log.as_array().unwrap().iter().map(text).collect()
    }

    /// Keeps a picture of the page.
    pub(crate) async fn screenshot(&self, name: &str) {
        let folder = screenshots();
        std::fs::create_dir_all(&folder).unwrap();
        let picture = self.devtools("Page.captureScreenshot", json!({"captureBeyondViewport": true})).await;
        let picture = STANDARD.decode(picture["data"].as_str().unwrap()).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), picture).unwrap();
    }
}

impl Drop for Browser {
    /// Chromium does not end with its driver, unless the driver is told to shut down.
    fn drop(&mut self) {
        let Ok(mut connection) = std::net::TcpStream::connect(self.addr) else { return };
        let quit = request(self.addr, "GET", "/shutdown", &Value::Null);
        let _ = connection.set_read_timeout(Some(Duration::from_secs(10)));
        let _ = connection.write_all(&quit).and_then(|()| connection.read(&mut [0; 1024]));
    }
}

fn request(addr: SocketAddr, method: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = if method == "POST" { body.to_string() } else { String::new() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nContent-Type: application/json\r\n");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// Where pictures go: `target/page-screenshots`.
fn screenshots() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("page-screenshots")
}

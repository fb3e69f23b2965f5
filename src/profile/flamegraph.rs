//! A CPU profile as a page: a flame graph with its root at the top, and the functions by their own time. The page loads
//! nothing, so it also works as a saved file.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::stacks::CpuProfile;
use crate::rfc3339;

const STYLE: &str = include_str!("flamegraph.css");
const SCRIPT: &str = include_str!("flamegraph.js");
/// Frames with less than this share of all samples are left out, so that the page stays small.
const SHARE_MIN: f64 = 0.0005;

/// The policy under which the page works: its own style and script, and nothing else.
pub(crate) fn content_security_policy() -> String {
    let hash = |text: &str| BASE64_STANDARD.encode(Sha256::digest(text.as_bytes()));
    format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
}

/// The profile as an HTML page.
pub(crate) fn page(profile: &CpuProfile) -> Vec<u8> {
    // JSON in a script element ends at the first `</script`: names of functions contain `<`.
    let data = serde_json::to_string(&Graph::of(profile)).unwrap_or_default().replace('<', "\\u003c");
    let page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>millpond: CPU profile</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>CPU profile</h1>\n<p id=\"summary\"></p>\n\
         <p><label>Search <input id=\"search\" type=\"search\" autocomplete=\"off\"></label> \
         <label><input id=\"runtime\" type=\"checkbox\"> Show the frames of std and tokio's runtime</label> \
         <button id=\"reset\" type=\"button\">Reset zoom</button> <output id=\"found\"></output></p>\n</header>\n\
         <main>\n<p id=\"detail\">&nbsp;</p>\n<div id=\"graph\"></div>\n<h2>Functions by their own time</h2>\n\
         <table><thead><tr><th>Own</th><th>Total</th><th>Function</th></tr></thead><tbody id=\"functions\"></tbody></table>\n\
         <noscript><p>The flame graph needs JavaScript. /debug/pprof/profile has the same data.</p></noscript>\n</main>\n\
         <script id=\"data\" type=\"application/json\">{data}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    );
    page.into_bytes()
}

/// The data of the page.
#[derive(Debug, Serialize)]
struct Graph<'a> {
    /// When the profile began (RFC 3339).
    started: String,
    /// Seconds.
    duration: f64,
    /// Seconds of CPU time that a sample stands for.
    period: f64,
    samples: u64,
    /// Names of functions and threads.
    names: Vec<&'a str>,
    /// For each frame the index of its parent, of its name, its samples, and those in which it was executing itself. Parents
    /// precede their children. The first one is the process, its children are the threads.
    frames: Vec<[u64; 4]>,
}

impl<'a> Graph<'a> {
    fn of(profile: &'a CpuProfile) -> Self {
        let mut root = Node::default();
        let mut names = vec!["all threads"];
        names.extend(profile.functions.iter().map(|function| function.name.as_str()));
        let mut threads = BTreeMap::new();
        for stack in &profile.stacks {
            let thread = *threads.entry(stack.thread.as_str()).or_insert_with_key(|thread| {
                names.push(thread);
                names.len() - 1
            });
            root.samples += stack.samples;
            let mut node = root.children.entry(thread).or_default();
            node.samples += stack.samples;
            for function in stack.frames.iter().rev() {
                node = node.children.entry(function + 1).or_default();
                node.samples += stack.samples;
            }
            node.own += stack.samples;
        }
        let mut frames = Vec::new();
        let least = root.samples as f64 * SHARE_MIN;
        root.append(&mut frames, 0, 0, least);
        Self {
            started: rfc3339::with_seconds(profile.started),
            duration: profile.duration.as_secs_f64(),
            period: profile.period.as_secs_f64(),
            samples: profile.samples(),
            names,
            frames,
        }
    }
}

#[derive(Debug, Default)]
struct Node {
    samples: u64,
    own: u64,
    /// By the index of the name.
    children: BTreeMap<usize, Node>,
}

impl Node {
    fn append(&self, frames: &mut Vec<[u64; 4]>, parent: u64, name: usize, least: f64) {
        let index = frames.len() as u64;
        frames.push([parent, name as u64, self.samples, self.own]);
        for (name, child) in &self.children {
            if child.samples as f64 >= least {
                child.append(frames, index, *name, least);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::stacks::Stack;
    use super::super::symbols::Function;
    use super::*;

    fn profile(name: &str, stacks: Vec<Stack>) -> CpuProfile {
        let function = |name: &str| Function { name: name.to_owned(), symbol: name.to_owned() };
        CpuProfile {
            started: UNIX_EPOCH,
            duration: Duration::from_secs(1),
            period: Duration::from_millis(10),
            functions: vec![function("main"), function(name)],
            stacks,
            missed: 0,
        }
    }

    fn stack(frames: &[usize], samples: u64) -> Stack {
        Stack { thread: "runtime".to_owned(), frames: frames.to_vec(), samples }
    }

    #[test]
    fn common_callers_are_one_frame() {
        let profile = profile("leaf", vec![stack(&[0], 3), stack(&[1, 0], 7)]);
        let graph = Graph::of(&profile);
        assert_eq!(graph.names, ["all threads", "main", "leaf", "runtime"]);
        assert_eq!(graph.frames, [[0, 0, 10, 0], [0, 3, 10, 0], [1, 1, 10, 3], [2, 2, 7, 7]]);
    }

    #[test]
    fn frames_that_are_too_narrow_to_see_are_left_out() {
        let graph_frames =
            |samples| Graph::of(&profile("leaf", vec![stack(&[0], 10_000), stack(&[1, 0], samples)])).frames.len();
        assert_eq!((graph_frames(4), graph_frames(6)), (3, 4));
    }

    #[test]
    fn a_name_cannot_leave_the_data() {
        let page = page(&profile("</script><script>alert(1)</script><!--", vec![stack(&[1, 0], 1)]));
        let page = String::from_utf8(page).unwrap();
        assert!(page.contains("\\u003c/script>\\u003cscript>alert(1)") && !page.contains("<script>alert"), "{page}");
    }

    #[test]
    fn the_policy_allows_no_foreign_script() {
        let policy = content_security_policy();
        assert!(
            policy.starts_with("default-src 'none'; script-src 'sha256-") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert!(!SCRIPT.contains("</script") && !STYLE.contains("</style"));
        assert!(!SCRIPT.contains("innerHTML"), "names of functions are set as text");
    }
}

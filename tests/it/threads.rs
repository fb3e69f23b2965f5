//! The threads of the process: their names and priorities, and packing on several of them.

use std::collections::HashSet;
use std::fs;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use flate2::bufread::GzDecoder;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::support::{Server, unpacked, until};

/// Name, nice value and voluntary context switches of each thread of the process.
fn threads(pid: u32) -> Vec<(String, i32, u64)> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().map(|task| task.unwrap().path());
    let thread = |task: std::path::PathBuf| {
        let [name, stat, status] = ["comm", "stat", "status"].map(|file| fs::read_to_string(task.join(file)).unwrap());
        // The 19th field; the second is the name in brackets.
        let nice = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(16).unwrap().parse().unwrap();
        let switches = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        (name.trim().to_owned(), nice, switches.unwrap().trim().parse().unwrap())
    };
    tasks.map(thread).collect()
}

#[tokio::test]
async fn threads_have_names_uploads_yield_to_requests_and_an_idle_server_rarely_wakes() {
    let server = Server::start(&[]).await;
    assert_eq!(server.post_json("{}").await.status, 202);
    for (name, nice) in [("runtime", 0), ("dispatcher", 0), ("uploads", 5)] {
        // A thread sets its priority when it first runs.
        until(name, async || {
            let seen = threads(server.pid());
            let mut matching = seen.iter().filter(|(thread, ..)| thread == name).peekable();
            matching.peek().is_some() && matching.all(|thread| thread.1 == nice)
        })
        .await;
    }
    let wakes = || threads(server.pid()).iter().map(|thread| thread.2).sum::<u64>();
    // The request before has an end.
    sleep(Duration::from_millis(500)).await;
    let before = wakes();
    sleep(Duration::from_secs(3)).await;
    let per_second = (wakes() - before) / 3;
    assert!(per_second < 10, "{per_second} wakes a second");
}

/// The gzip members of an object.
fn members(mut object: &[u8]) -> usize {
    let mut count = 0;
    while !object.is_empty() {
        let mut member = GzDecoder::new(object);
        member.read_to_end(&mut Vec::new()).unwrap();
        object = member.into_inner();
        count += 1;
    }
    count
}

#[tokio::test]
async fn receipts_name_the_lines_of_jobs_that_were_packed_beside_each_other() {
    const CLIENTS: usize = 64;
    const ROUNDS: usize = 5;
    for compression in ["gzip", "zstd", "none"] {
        let server = Arc::new(Server::start(&[("COMPRESSION", compression), ("RECORD", "payload")]).await);
        let mut clients = JoinSet::new();
        for client in 0..CLIENTS {
            let server = Arc::clone(&server);
            clients.spawn(async move {
                let mut receipts = Vec::new();
                for round in 0..ROUNDS {
                    // Together they are far more than one part.
                    let payload = format!("{{\"n\":\"{client}-{round}\",\"fill\":\"{:016384}\"}}", client * round);
                    let answer = server.post_json(&payload).await;
                    assert_eq!(answer.status, 202);
                    receipts.push((answer.json()["job"].as_str().unwrap().to_owned(), payload));
                }
                receipts
            });
        }
        let receipts: Vec<_> = clients.join_all().await.into_iter().flatten().collect();
        let mut server = Arc::into_inner(server).unwrap();
        let commits = server.metric("millpond_frame_jobs_count").await;
        assert_eq!(server.stop().await, Some(0));
        let objects = server.objects();
        for (receipt, payload) in &receipts {
            let (segment, index) = receipt.split_once('.').unwrap();
            let object = objects.iter().find(|path| path.to_str().unwrap().contains(segment)).unwrap();
            let lines = unpacked(object.to_str().unwrap(), &fs::read(object).unwrap());
            assert_eq!(lines.lines().nth(index.parse().unwrap()), Some(payload.as_str()), "{receipt}");
        }
        let unique: HashSet<_> = receipts.iter().map(|(receipt, _)| receipt).collect();
        assert_eq!((unique.len(), server.lines().len()), (CLIENTS * ROUNDS, CLIENTS * ROUNDS));
        if compression == "gzip" && std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
            let members: usize = objects.iter().map(|object| members(&fs::read(object).unwrap())).sum();
            assert!(members as f64 > commits, "{members} members of {commits} frames");
        }
    }
}

//! `SPOOL_DIR`: its permissions, its bound, and many folders of dead processes.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use crate::in_process::Place;
use crate::recovery::{Segment, write_dead_folder};
use crate::support::{Server, files, run, until};

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_owner_can_read_folders_and_files_of_the_spool_whatever_the_umask() {
    for umask in ["000", "022", "077"] {
        let root = tempfile::tempdir().unwrap();
        let spool = root.path().join("spool");
        let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("OBJECT_MAX_AGE", "1h")];
        let server = Server::start_with_umask(umask, &env).await;
        assert_eq!(server.post_json("{}").await.status, 202);
        let found = files(&spool);
        assert_eq!(found.len(), 2, "a lock and a segment: {found:?}");
        for file in &found {
            assert_eq!((mode(file), mode(file.parent().unwrap())), (0o600, 0o700), "{umask}: {}", file.display());
        }
        assert_eq!(mode(&spool), 0o700, "{umask}");
    }
}

#[tokio::test]
async fn an_existing_spool_dir_keeps_its_mode_and_new_folders_in_it_are_private() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let mut segment = Segment::of(&["{}".to_owned(), "{}".to_owned()]);
    segment.damage(0);
    write_dead_folder(&place, &[&segment]);
    let spool = place.spool();
    std::fs::set_permissions(&spool, PermissionsExt::from_mode(0o755)).unwrap();
    let server = Server::start_with_umask("000", &[("SPOOL_DIR", spool.to_str().unwrap())]).await;
    until("the move to dead/", async || spool.join("dead").join(segment.name()).exists()).await;
    assert_eq!((mode(&spool), mode(&spool.join("dead"))), (0o755, 0o700));
    drop(server);
}

#[tokio::test]
async fn a_symbolic_link_named_dead_is_rejected_and_not_followed() {
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    let (spool, elsewhere) = (place.spool(), root.path().join("elsewhere"));
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::create_dir_all(&spool).unwrap();
    symlink(&elsewhere, spool.join("dead")).unwrap();
    let ended = run(root.path(), &[("SPOOL_DIR", spool.to_str().unwrap())], &[]).await;
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(64), "{said}");
    assert!(said.contains("dead") && said.contains("symbolic link") && said.contains("remove it"), "{said}");

    // A link that is created later.
    std::fs::remove_file(spool.join("dead")).unwrap();
    let mut server = Server::start(&[("SPOOL_DIR", spool.to_str().unwrap())]).await;
    symlink(&elsewhere, spool.join("dead")).unwrap();
    let mut segment = Segment::of(&["{}".to_owned(), "{}".to_owned()]);
    segment.damage(0);
    let folder = write_dead_folder(&place, &[&segment]);
    server.logged("symbolic link").await;
    assert!(folder.join(segment.name()).exists(), "it is not moved");
    std::fs::remove_file(spool.join("dead")).unwrap();
    until("the move to dead/", async || spool.join("dead").join(segment.name()).exists()).await;
    assert_eq!(files(&elsewhere).len(), 0);
}

#[tokio::test]
async fn more_folders_of_dead_processes_than_open_files_are_adopted_in_portions() {
    const FOLDERS: usize = 1100;
    let root = tempfile::tempdir().unwrap();
    let place = Place::new(root.path(), &[]);
    for n in 0..FOLDERS {
        write_dead_folder(&place, &[&Segment::of(&[format!("{{\"n\":{n}}}")])]);
    }
    let (spool, store) = (place.spool(), place.store());
    let env = [("SPOOL_DIR", spool.to_str().unwrap()), ("STORE_DIR", store.to_str().unwrap()), ("RECORD", "payload")];
    let mut server = Server::start_with_files(1024, &env).await;
    assert!(server.metric("millpond_segments_adopted_total").await < FOLDERS as f64);
    assert_eq!(server.post_json("{\"new\":1}").await.status, 202, "batches are accepted meanwhile");
    server.metric_is("millpond_jobs_stored_total", |jobs| jobs >= FOLDERS as f64).await;
    until("no folder of a dead process", async || place.folders().len() == 1).await;
    server.metric_is("millpond_spool_folders_waiting", |folders| folders == 0.0).await;
    assert_eq!(server.metric("millpond_spool_folders_not_adopted").await, 0.0);
    assert!(!server.log().contains("cannot be adopted"), "{}", server.log());
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(place.stored().len(), FOLDERS + 1);
}

/// Posts `count` payloads of about 8 KB, each until it is accepted.
async fn fill(server: &Server, count: usize) {
    for n in 0..count {
        let payload = format!("{{\"n\":{n},\"pad\":\"{}\"}}", "x".repeat(8000));
        until("a batch is accepted", async || server.post_json(&payload).await.status == 202).await;
    }
}

#[tokio::test]
async fn a_spool_that_is_smaller_than_an_object_is_uploaded_before_it_is_full() {
    let env = [("SPOOL_MAX_BYTES", "256KiB"), ("OBJECT_MAX_AGE", "1h"), ("COMPRESSION", "none")];
    let mut server = Server::start(&env).await;
    // Four times its bound.
    fill(&server, 128).await;
    assert_eq!(server.metric("millpond_segments_sealed_total{reason=\"age\"}").await, 0.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 128);
}

#[tokio::test]
async fn the_open_segment_is_sealed_when_the_spool_is_nearly_full() {
    let root = tempfile::tempdir().unwrap();
    let spool = root.path().join("spool");
    std::fs::create_dir_all(spool.join("dead")).unwrap();
    // Less space is left than a segment that is sealed for its size takes.
    std::fs::write(spool.join("dead/old.seg"), vec![0; 200 << 10]).unwrap();
    let env = [
        ("SPOOL_DIR", spool.to_str().unwrap()),
        ("SPOOL_MAX_BYTES", "256KiB"),
        ("OBJECT_MAX_AGE", "1h"),
        ("COMPRESSION", "none"),
    ];
    let mut server = Server::start(&env).await;
    fill(&server, 32).await;
    assert!(server.metric("millpond_segments_sealed_total{reason=\"spool_full\"}").await >= 1.0);
    assert_eq!(server.stop().await, Some(0));
    assert_eq!(server.lines().len(), 32);
}

#[tokio::test]
async fn a_warning_is_logged_if_other_users_can_read_a_file_of_secrets() {
    let root = tempfile::tempdir().unwrap();
    let tokens = root.path().join("tokens.json");
    let digest = "1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014";
    std::fs::write(&tokens, format!("{{\"tenants\":[{{\"name\":\"a\",\"tokens_sha256\":[\"{digest}\"]}}]}}")).unwrap();
    for (mode, is_warned) in [(0o600, false), (0o640, true), (0o604, true)] {
        std::fs::set_permissions(&tokens, PermissionsExt::from_mode(mode)).unwrap();
        let server = Server::start(&[("TOKENS_FILE", tokens.to_str().unwrap())]).await;
        let log = server.log();
        let warned =
            log.lines().any(|line| line.contains("WARN") && line.contains("TOKENS_FILE") && line.contains("chmod 600"));
        assert_eq!(warned, is_warned, "{mode:o}: {log}");
    }
}

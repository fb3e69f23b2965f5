//! A millpond within the test's own process, on a disk that the test has in hand.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use millpond::app::{self, Controls, ExitSummary, Listeners};
use millpond::config::Settings;
use millpond::disk::{Disk, RealDisk};
use millpond::reload::Reload;
use millpond::server::bind;
use millpond::shutdown::Shutdown;
use millpond::spool::{SealedSegment, Spool};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Answer, Connection, PATIENCE, files, get, lines, post};

/// A folder for the spool and one for the store, which outlive the servers that use them.
pub(crate) struct Place {
    root: PathBuf,
    env: Vec<(&'static str, &'static str)>,
}

impl Place {
    /// Every line is the bare payload, so that it can be found again.
    pub(crate) fn new(root: &Path, env: &[(&'static str, &'static str)]) -> Self {
        Self { root: root.to_owned(), env: env.to_vec() }
    }

    pub(crate) fn spool(&self) -> PathBuf {
        self.root.join("spool")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    pub(crate) fn settings(&self) -> Settings {
        let mut vars: BTreeMap<OsString, OsString> = BTreeMap::new();
        for (name, value) in [("LISTEN_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("RECORD", "payload")] {
            vars.insert(name.into(), value.into());
        }
        vars.insert("SPOOL_DIR".into(), self.spool().into());
        vars.insert("STORE_DIR".into(), self.store().into());
        vars.extend(self.env.iter().map(|(name, value)| (name.into(), value.into())));
        Settings::from_vars(vars).unwrap()
    }

    /// The spool alone, and what was left in it.
    pub(crate) fn open(&self) -> (Spool, Vec<SealedSegment>) {
        app::open_spool(&self.settings(), Arc::new(RealDisk)).unwrap()
    }

    pub(crate) fn start(&self, disk: impl Disk + 'static) -> anyhow::Result<InProcess> {
        let settings = self.settings();
        let spool = app::open_spool(&settings, Arc::new(disk))?;
        let listeners = Listeners {
            public: bind(settings.http.listen_addr).unwrap(),
            tls: None,
            admin: bind(settings.admin_addr).unwrap(),
        };
        let (public, admin) = (listeners.public.local_addr().unwrap(), listeners.admin.local_addr().unwrap());
        let stop = Shutdown::default();
        let reload = Reload::default();
        let tenants = app::open_tenants(&settings, &reload)?;
        let mut running = JoinSet::new();
        let controls = Controls { shutdown: stop.clone(), ..Controls::default() };
        let own = [settings.http.listen_addr, settings.admin_addr];
        let rollout = app::open_rollout(&settings, own, tenants.as_ref(), &reload)?;
        running.spawn(app::run(settings, spool, (tenants, rollout), listeners, controls));
        Ok(InProcess { public, admin, stop, _reload: reload, running })
    }

    /// What is stored, sorted.
    pub(crate) fn stored(&self) -> Vec<String> {
        let mut stored = lines(&self.store());
        stored.sort();
        stored
    }

    /// The segments' files under processes' folders.
    pub(crate) fn segments(&self) -> Vec<PathBuf> {
        let dead = self.spool().join("dead");
        let mut found = files(&self.spool());
        found.retain(|path| path.extension().is_some_and(|end| end == "seg") && !path.starts_with(&dead));
        found
    }

    /// The processes' folders that somebody still has to look after: those with a lock.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        let mut found = files(&self.spool());
        found.retain(|path| path.file_name().is_some_and(|name| name == "lock"));
        found
    }

    /// That all of `acknowledged` is stored once, and nothing twice.
    pub(crate) fn assert_stored_once(&self, acknowledged: &[String], what: &str) {
        let stored = self.stored();
        let twice: Vec<_> = stored.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).collect();
        assert!(twice.is_empty(), "{what}: stored twice: {twice:?}");
        let lost: Vec<_> = acknowledged.iter().filter(|line| stored.binary_search(line).is_err()).collect();
        assert!(lost.is_empty(), "{what}: lost {} of {}: {lost:?}", lost.len(), acknowledged.len());
    }
}

/// A running server.
pub(crate) struct InProcess {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
    stop: Shutdown,
    /// Following a file ends when this is dropped.
    _reload: Reload,
    running: JoinSet<anyhow::Result<ExitSummary>>,
}

impl InProcess {
    pub(crate) async fn connect(&self) -> Connection {
        Connection(TcpStream::connect(self.public).await.unwrap())
    }

    pub(crate) async fn post(&self, payload: &str) -> Answer {
        let mut connection = self.connect().await;
        connection.write(&post("", payload.as_bytes())).await;
        connection.answer().await.expect("an answer")
    }

    pub(crate) async fn ready(&self) -> (u16, String) {
        let answer = get(self.admin, "/ready").await;
        (answer.status, answer.text())
    }

    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let text = get(self.admin, "/metrics").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
    }

    /// What became of a job: `spooled`, `stored`, `dead`; or the status of a refusal.
    pub(crate) async fn fate(&self, job: &str) -> String {
        let answer = get(self.public, &format!("/v1/jobs/{job}")).await;
        match answer.status {
            200 => answer.json()["state"].as_str().unwrap().to_owned(),
            status => status.to_string(),
        }
    }

    /// Stops it gently: all accepted jobs are stored.
    pub(crate) async fn stop(mut self) -> ExitSummary {
        self.stop.drain();
        self.ended().await
    }

    pub(crate) fn shutdown(&self) -> Shutdown {
        self.stop.clone()
    }

    /// Until the end of the process.
    pub(crate) async fn ended(&mut self) -> ExitSummary {
        timeout(PATIENCE, self.running.join_next()).await.expect("it ends").unwrap().unwrap().unwrap()
    }

    /// Ends by itself, for good or ill, when it should run on.
    pub(crate) async fn forever(mut self) {
        self.running.join_next().await;
    }
}

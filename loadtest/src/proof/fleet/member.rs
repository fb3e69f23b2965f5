//! A front end or a worker of a fleet.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::client::{self, Target};
use crate::proof::testbed::Testbed;
use crate::server::Server;

/// How often a member is asked whether it is ready, and how long it may take for the response.
const ASK_EVERY: Duration = Duration::from_millis(100);
const RESPONSE_LIMIT: Duration = Duration::from_secs(2);

/// The admin listener needs one unless it listens on the loopback address.
const ADMIN_TOKEN: &str = "the-admin-token-of-a-proof";

/// A server, which is away while it is killed.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    /// The folder of everything that the member has on its disk.
    folder: String,
    env: Vec<(String, String)>,
    pub(super) addr: SocketAddr,
    pub(super) server: Option<Server>,
}

impl Member {
    /// Starts it.
    pub(super) async fn start(testbed: &Testbed<'_>, name: String, own: &[(&str, &str)]) -> anyhow::Result<Self> {
        let folder = testbed.spool(&name);
        let mut env = testbed.env(&[own, &[("SPOOL_DIR", &*folder), ("ADMIN_TOKEN", ADMIN_TOKEN)]].concat());
        if let Some(network) = &testbed.network {
            let any_port = format!("{}:0", network.address(&name)?);
            env.extend(["LISTEN_ADDR", "ADMIN_ADDR"].map(|setting| (setting.to_owned(), any_port.clone())));
        }
        let server = testbed.start(&name, &env).await?;
        let addr = server.addr()?;
        // It is started again where it was.
        env.push(("LISTEN_ADDR".to_owned(), addr.to_string()));
        Ok(Self { name, folder, env, addr, server: Some(server) })
    }

    /// Kills it, with its disk or without.
    pub(super) async fn kill(&mut self, testbed: &Testbed<'_>, with_disk: bool) -> anyhow::Result<()> {
        let server = self.server.take().context("it is away")?;
        let exit = testbed.kill(server).await?;
        ensure!(exit.code.is_none(), "{} exited by itself before it could be killed: {}", self.name, exit.status);
        if with_disk {
            match std::fs::remove_dir_all(&self.folder) {
                // With a broker a member may need no folder.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                removed => removed.with_context(|| format!("removing the folder of {}", self.name))?,
            }
        }
        Ok(())
    }

    /// Starts it again, and waits until it is ready.
    pub(super) async fn start_again(&mut self, testbed: &Testbed<'_>) -> anyhow::Result<()> {
        self.server = Some(testbed.start_again(&self.name, &self.env).await?);
        self.ready(testbed.setup.settle).await
    }

    /// Waits until `GET /ready` is 200.
    pub(super) async fn ready(&mut self, limit: Duration) -> anyhow::Result<()> {
        let server = self.server.as_mut().context("it is away")?;
        let admin = Target::from(server.admin(limit).await?);
        let mut last = String::new();
        let ready = async {
            loop {
                let response =
                    tokio::time::timeout(RESPONSE_LIMIT, client::get(&admin, "/ready", Some(ADMIN_TOKEN))).await;
                match response {
                    Ok(Ok((200, _))) => return,
                    Ok(Ok((status, body))) => last = format!("{status} {}", body.trim()),
                    Ok(Err(error)) => last = error.to_string(),
                    Err(_) => last = "no response".to_owned(),
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        let ready = tokio::select! {
            status = server.ended() => bail!("{} exited by itself: {}", self.name, status?),
            ready = tokio::time::timeout(limit, ready) => ready,
        };
        ready.with_context(|| format!("{} is not ready after {limit:?}: {last}", self.name))
    }
}

/// Stops a process for a time without ending it.
pub(super) async fn pause(server: &Server, time: Duration) -> anyhow::Result<()> {
    signal(server, Signal::STOP)?;
    tokio::time::sleep(time).await;
    signal(server, Signal::CONT)
}

pub(super) fn signal(server: &Server, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(server.pid().cast_signed()).context("no process")?;
    rustix::process::kill_process(pid, signal).context("sending a signal to a process")
}

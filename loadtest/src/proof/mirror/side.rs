//! The other side of a mirror, in each state that it can be in.

use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use serde::Serialize;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;

/// How long a slow one takes for a response.
const SLOW: Duration = Duration::from_secs(1);

/// The state of the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OtherSide {
    /// The mirror is off.
    Off,
    /// It responds at once.
    Prompt,
    /// It responds after a second.
    Slow,
    /// It accepts connections and does not respond.
    Hanging,
    /// It refuses connections.
    Away,
}

/// The other sides, each in a state, for as long as this lives. They store nothing.
pub(super) struct OtherSides {
    urls: [(OtherSide, String); 4],
    /// Bound, and not listening.
    _away: TcpSocket,
    _serving: JoinSet<()>,
}

impl OtherSide {
    pub(super) const ALL: [Self; 5] = [Self::Off, Self::Prompt, Self::Slow, Self::Hanging, Self::Away];

    /// The name in the verdict.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Prompt => "prompt",
            Self::Slow => "slow",
            Self::Hanging => "hanging",
            Self::Away => "away",
        }
    }
}

impl OtherSides {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut serving = JoinSet::new();
        let mut urls = Vec::new();
        for (side, wait) in [(OtherSide::Prompt, Duration::ZERO), (OtherSide::Slow, SLOW)] {
            let listener = listener().await?;
            urls.push((side, url(listener.local_addr()?)));
            let respond = move |_: Bytes| async move {
                if !wait.is_zero() {
                    tokio::time::sleep(wait).await;
                }
                (StatusCode::ACCEPTED, "{}")
            };
            serving.spawn(async move {
                // It ends with this task.
                let _ = axum::serve(listener, Router::new().fallback(respond)).await;
            });
        }
        let hanging = listener().await?;
        urls.push((OtherSide::Hanging, url(hanging.local_addr()?)));
        serving.spawn(async move {
            let mut held = Vec::new();
            while let Ok((stream, _)) = hanging.accept().await {
                held.push(stream);
            }
        });
        let away = TcpSocket::new_v4()?;
        away.bind(([127, 0, 0, 1], 0).into())?;
        urls.push((OtherSide::Away, url(away.local_addr()?)));
        let urls = urls.try_into().ok().context("one URL for each state")?;
        Ok(Self { urls, _away: away, _serving: serving })
    }

    /// Where copies go in this state; nowhere if the mirror is off.
    pub(super) fn url(&self, side: OtherSide) -> Option<&str> {
        self.urls.iter().find(|(of, _)| *of == side).map(|(_, url)| url.as_str())
    }
}

async fn listener() -> anyhow::Result<TcpListener> {
    TcpListener::bind("127.0.0.1:0").await.context("binding a port")
}

fn url(addr: std::net::SocketAddr) -> String {
    format!("http://{addr}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{self, Target};

    async fn get(sides: &OtherSides, side: OtherSide) -> Option<std::io::Result<u16>> {
        let (target, _) = Target::resolve(sides.url(side).unwrap(), None).await.unwrap();
        let asked = tokio::time::timeout(SLOW / 2, client::get(&target, "/v1/payloads", None)).await;
        asked.ok().map(|asked| asked.map(|(status, _)| status))
    }

    #[tokio::test]
    async fn each_state_is_what_its_name_says() {
        let sides = OtherSides::start().await.unwrap();
        assert_eq!(sides.url(OtherSide::Off), None);
        assert_eq!(get(&sides, OtherSide::Prompt).await.unwrap().unwrap(), 202);
        assert!(get(&sides, OtherSide::Slow).await.is_none());
        assert!(get(&sides, OtherSide::Hanging).await.is_none());
        assert!(get(&sides, OtherSide::Away).await.unwrap().is_err());
    }
}

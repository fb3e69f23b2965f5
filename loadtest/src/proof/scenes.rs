//! The scenes. Each begins with a server running and the load going to it, and ends with such a server.

use std::time::Duration;

use anyhow::ensure;

use super::Scene;
use super::depot::Away;
use super::spool::Remains;
use super::stage::Stage;
use crate::s3::Fault;
use crate::server::Server;

/// Before and after what happens, the load goes on undisturbed.
const QUIET: Duration = Duration::from_secs(2);

/// So long a full disk stays full before anything else happens to it.
const FULL_FOR: Duration = Duration::from_secs(3);

/// So many looks without a refusal, one a second, show that a spool takes work again.
const WELL: u32 = 2;

pub(super) async fn play(stage: &mut Stage<'_>, first: Server) -> anyhow::Result<Server> {
    match stage.proof.scene {
        Scene::Kill => kill(stage, first).await,
        Scene::Outage => outage(stage, first).await,
        Scene::SlowStore => slow_store(stage, first).await,
        Scene::Stop => stop(stage, first).await,
        Scene::DiskFull => disk_full(stage, first).await,
        Scene::Takeover => takeover(stage, first).await,
    }
}

async fn kill(stage: &mut Stage<'_>, mut server: Server) -> anyhow::Result<Server> {
    for round in 1..=stage.proof.rounds {
        let life = stage.life();
        stage.during(&mut server, life).await?;
        if stage.is_over() {
            break;
        }
        stage.kill(server).await?;
        stage.nowhere();
        let left = Remains::of(&stage.spool())?;
        server = stage.start().await?;
        stage.say(&format!(
            "round {round} of {}: killed after {life:.2?} with {} segments in {} folders",
            stage.proof.rounds,
            left.segments.len(),
            left.folders
        ));
    }
    // The load gets to see the last one too.
    stage.during(&mut server, *stage.proof.life.start()).await?;
    Ok(server)
}

async fn stop(stage: &mut Stage<'_>, mut server: Server) -> anyhow::Result<Server> {
    let mut drained = 0;
    for round in 1..=stage.proof.rounds {
        let life = stage.life();
        stage.during(&mut server, life).await?;
        if stage.is_over() {
            break;
        }
        // The load stays: it is for the server to end what it has begun and to take no more.
        stage.stop(server).await?;
        stage.nowhere();
        let left = Remains::of(&stage.spool())?;
        drained += u32::from(left.segments.is_empty());
        server = stage.start().await?;
        stage.say(&format!(
            "round {round} of {}: stopped after {life:.2?}, {} segments left",
            stage.proof.rounds,
            left.segments.len()
        ));
    }
    stage.during(&mut server, *stage.proof.life.start()).await?;
    stage.remark(format!("{drained} of {} stops left an empty spool", stage.tracks.stops));
    Ok(server)
}

async fn outage(stage: &mut Stage<'_>, mut server: Server) -> anyhow::Result<Server> {
    let kinds = if stage.proof.in_process_s3 {
        &[
            Away::Gone,
            Away::Faulty(Fault::Hang),
            Away::Faulty(Fault::SlowDown),
            Away::Faulty(Fault::AccessDenied),
            Away::Faulty(Fault::NoSuchBucket),
            Away::Faulty(Fault::DropAfter),
        ][..]
    } else {
        &[Away::Gone]
    };
    for (_, away) in (0..stage.proof.rounds).zip(kinds.iter().cycle()) {
        stage.during(&mut server, QUIET).await?;
        if stage.is_over() {
            break;
        }
        let before = stage.pulse();
        stage.store_away(*away).await?;
        stage.during(&mut server, stage.proof.span).await?;
        let waiting = Remains::of(&stage.spool())?.segments;
        let after = stage.pulse();
        stage.store_back().await?;
        // New work goes on meanwhile, so what has to go is what was there when the store came back.
        let limit = stage.proof.settle;
        let caught_up = stage.spool_when(&mut server, limit, |remains| remains.segments.is_disjoint(&waiting)).await?;
        match caught_up {
            Some(time) => stage.remark(format!(
                "{away:?} for {:?}: {} accepted and {} answered 5xx, and the {} segments stored in {time:.1?}",
                stage.proof.span,
                after.all_accepted - before.all_accepted,
                after.all_failed - before.all_failed,
                waiting.len(),
            )),
            None => {
                stage.broken(format!("{away:?}: the backlog was not stored within {limit:?} of the store's return"))
            }
        }
        if after.all_accepted == before.all_accepted && !stage.is_over() {
            stage.broken(format!("{away:?}: nothing was accepted while the store was away"));
        }
    }
    Ok(server)
}

async fn slow_store(stage: &mut Stage<'_>, mut server: Server) -> anyhow::Result<Server> {
    for _ in 0..stage.proof.rounds {
        stage.during(&mut server, stage.proof.span).await?;
    }
    let left = Remains::of(&stage.spool())?;
    stage.remark(format!("{} segments were waiting at the load's end", left.segments.len()));
    Ok(server)
}

async fn disk_full(stage: &mut Stage<'_>, mut server: Server) -> anyhow::Result<Server> {
    let limit = stage.proof.settle;
    for round in 1..=stage.proof.rounds {
        stage.during(&mut server, QUIET).await?;
        stage.store_away(Away::Gone).await?;
        let full = stage.pulse_when(&mut server, limit, |pulse| pulse.failed > 0 && pulse.accepted == 0).await?;
        ensure!(full, "the spool was to be full within {limit:?}: raise the rate, or make it smaller");
        let before = stage.pulse();
        stage.during(&mut server, FULL_FOR).await?;
        let (after, left) = (stage.pulse(), Remains::of(&stage.spool())?);
        if after.all_accepted > before.all_accepted {
            stage.remark(format!("{} were accepted while it was full", after.all_accepted - before.all_accepted));
        }
        // With the store away nothing is removed, so this is no guess.
        if stage.spool_max().is_some_and(|max| left.bytes > max) {
            stage.broken(format!("the spool holds {} bytes, over SPOOL_MAX_BYTES", left.bytes));
        }

        // It has to clear by itself, and a full spool is the worst to find at a start.
        let restarts = round % 2 == 0;
        if restarts {
            stage.kill(server).await?;
            stage.nowhere();
            server = stage.start().await?;
            stage.during(&mut server, FULL_FOR).await?;
        }
        stage.store_back().await?;
        let mut well = 0;
        let again = stage
            .pulse_when(&mut server, limit, |pulse| {
                well = if pulse.failed == 0 && pulse.accepted > 0 { well + 1 } else { 0 };
                well >= WELL
            })
            .await?;
        ensure!(again, "work was still refused {limit:?} after the store came back");
        let what = if stage.has_disk() { "disk" } else { "spool" };
        let how = if restarts { "after a kill" } else { "by itself" };
        let count = left.segments.len();
        stage.remark(format!("a full {what}, {} bytes in {count} segments, took work again {how}", left.bytes));
    }
    Ok(server)
}

async fn takeover(stage: &mut Stage<'_>, mut old: Server) -> anyhow::Result<Server> {
    for round in 1..=stage.proof.rounds {
        let life = stage.life();
        stage.during(&mut old, life).await?;
        if stage.is_over() {
            break;
        }
        let (new, how) = match round % 3 {
            // It comes while the other serves, has the load to itself, and then the other goes.
            1 => {
                let mut new = stage.start().await?;
                let life = stage.life();
                stage.during(&mut new, life).await?;
                stage.stop(old).await?;
                (new, "stopped after its successor had started")
            }
            // It comes while the other drains.
            2 => {
                old.terminate()?;
                let new = stage.start().await?;
                stage.stopped(old).await?;
                (new, "stopped before its successor was started")
            }
            // It has to adopt what the other leaves, and was not there at its own start.
            _ => {
                let mut new = stage.start().await?;
                stage.direct(&old)?;
                let life = stage.life();
                stage.during(&mut new, life).await?;
                stage.kill(old).await?;
                stage.direct(&new)?;
                (new, "killed beside its successor")
            }
        };
        old = new;
        stage.say(&format!("round {round} of {}: {how}", stage.proof.rounds));
    }
    stage.during(&mut old, *stage.proof.life.start()).await?;
    Ok(old)
}

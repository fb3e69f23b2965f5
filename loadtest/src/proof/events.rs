//! The events. Each begins with a running server under load, and ends with such a server.

use std::time::Duration;

use anyhow::ensure;

use super::Event;
use super::environment::Environment;
use super::spool::SpoolContents;
use super::store::Outage;
use crate::s3::Fault;
use crate::server::Server;

/// Before and after an event, the load goes on undisturbed.
const QUIET: Duration = Duration::from_secs(2);

/// How long a full disk stays full before the next event.
const FULL_FOR: Duration = Duration::from_secs(3);

/// Seconds without a rejection after which a spool counts as recovered.
const RECOVERED: u32 = 2;

pub(super) async fn run(env: &mut Environment<'_>, first: Server) -> anyhow::Result<Server> {
    match env.proof.event {
        Event::Kill => kill(env, first).await,
        Event::Outage => outage(env, first).await,
        Event::SlowStore => slow_store(env, first).await,
        Event::Stop => stop(env, first).await,
        Event::DiskFull => disk_full(env, first).await,
        Event::Takeover => takeover(env, first).await,
    }
}

async fn kill(env: &mut Environment<'_>, mut server: Server) -> anyhow::Result<Server> {
    for round in 1..=env.proof.setup.rounds {
        let life = env.life();
        env.during(&mut server, life).await?;
        if env.testbed.is_over() {
            break;
        }
        env.kill(server).await?;
        env.pause_load();
        let left = SpoolContents::of(&env.spool())?;
        server = env.start().await?;
        env.testbed.say(&format!(
            "round {round} of {}: killed after {life:.2?} with {} segments in {} folders",
            env.proof.setup.rounds,
            left.segments.len(),
            left.folders
        ));
    }
    // The last one serves too.
    env.during(&mut server, *env.proof.setup.life.start()).await?;
    Ok(server)
}

async fn stop(env: &mut Environment<'_>, mut server: Server) -> anyhow::Result<Server> {
    let mut drained = 0;
    for round in 1..=env.proof.setup.rounds {
        let life = env.life();
        env.during(&mut server, life).await?;
        if env.testbed.is_over() {
            break;
        }
        // The load goes on: the server completes requests that have begun and accepts no more.
        env.stop(server).await?;
        env.pause_load();
        let left = SpoolContents::of(&env.spool())?;
        drained += u32::from(left.segments.is_empty());
        server = env.start().await?;
        env.testbed.say(&format!(
            "round {round} of {}: stopped after {life:.2?}, {} segments left",
            env.proof.setup.rounds,
            left.segments.len()
        ));
    }
    env.during(&mut server, *env.proof.setup.life.start()).await?;
    env.testbed.remark(format!("{drained} of {} stops left an empty spool", env.testbed.stops()));
    Ok(server)
}

async fn outage(env: &mut Environment<'_>, mut server: Server) -> anyhow::Result<Server> {
    let kinds = if env.proof.in_process_s3 {
        &[
            Outage::Gone,
            Outage::Faulty(Fault::Hang),
            Outage::Faulty(Fault::SlowDown),
            Outage::Faulty(Fault::AccessDenied),
            Outage::Faulty(Fault::NoSuchBucket),
            Outage::Faulty(Fault::DropAfter),
        ][..]
    } else {
        &[Outage::Gone]
    };
    for (_, outage) in (0..env.proof.setup.rounds).zip(kinds.iter().cycle()) {
        env.during(&mut server, QUIET).await?;
        if env.testbed.is_over() {
            break;
        }
        let before = env.load_state();
        env.store_away(*outage).await?;
        env.during(&mut server, env.proof.setup.span).await?;
        let waiting = SpoolContents::of(&env.spool())?.segments;
        let after = env.load_state();
        env.store_back().await?;
        // The load goes on: the segments that were there when the store came back have to be stored.
        let limit = env.proof.setup.settle;
        let caught_up = env.spool_when(&mut server, limit, |spool| spool.segments.is_disjoint(&waiting)).await?;
        match caught_up {
            Some(time) => env.testbed.remark(format!(
                "{outage:?} for {:?}: {} accepted and {} answered 5xx, and the {} segments stored in {time:.1?}",
                env.proof.setup.span,
                after.all_accepted - before.all_accepted,
                after.all_failed - before.all_failed,
                waiting.len(),
            )),
            None => env
                .testbed
                .broken(format!("{outage:?}: the backlog was not stored within {limit:?} of the store's return")),
        }
        if after.all_accepted == before.all_accepted && !env.testbed.is_over() {
            env.testbed.broken(format!("{outage:?}: nothing was accepted while the store was away"));
        }
    }
    Ok(server)
}

async fn slow_store(env: &mut Environment<'_>, mut server: Server) -> anyhow::Result<Server> {
    for _ in 0..env.proof.setup.rounds {
        env.during(&mut server, env.proof.setup.span).await?;
    }
    let left = SpoolContents::of(&env.spool())?;
    env.testbed.remark(format!("{} segments were waiting at the load's end", left.segments.len()));
    Ok(server)
}

async fn disk_full(env: &mut Environment<'_>, mut server: Server) -> anyhow::Result<Server> {
    let limit = env.proof.setup.settle;
    for round in 1..=env.proof.setup.rounds {
        env.during(&mut server, QUIET).await?;
        env.store_away(Outage::Gone).await?;
        let full = env.load_when(&mut server, limit, |load| load.failed > 0 && load.accepted == 0).await?;
        ensure!(full, "the spool was not full within {limit:?}: raise the rate, or make it smaller");
        let before = env.load_state();
        env.during(&mut server, FULL_FOR).await?;
        let (after, left) = (env.load_state(), SpoolContents::of(&env.spool())?);
        if after.all_accepted > before.all_accepted {
            env.testbed.remark(format!("{} were accepted while it was full", after.all_accepted - before.all_accepted));
        }
        // With the store away nothing is removed.
        if env.spool_max().is_some_and(|max| left.bytes > max) {
            env.testbed.broken(format!("the spool holds {} bytes, over SPOOL_MAX_BYTES", left.bytes));
        }

        // In every other round a server starts with a full spool.
        let restarts = round % 2 == 0;
        if restarts {
            env.kill(server).await?;
            env.pause_load();
            server = env.start().await?;
            env.during(&mut server, FULL_FOR).await?;
        }
        env.store_back().await?;
        let mut well = 0;
        let again = env
            .load_when(&mut server, limit, |load| {
                well = if load.failed == 0 && load.accepted > 0 { well + 1 } else { 0 };
                well >= RECOVERED
            })
            .await?;
        ensure!(again, "requests were still rejected {limit:?} after the store came back");
        let what = if env.testbed.disk.is_some() { "disk" } else { "spool" };
        let how = if restarts { "after a kill" } else { "by itself" };
        let count = left.segments.len();
        env.testbed
            .remark(format!("a full {what}, {} bytes in {count} segments, accepted requests again {how}", left.bytes));
    }
    Ok(server)
}

async fn takeover(env: &mut Environment<'_>, mut old: Server) -> anyhow::Result<Server> {
    for round in 1..=env.proof.setup.rounds {
        let life = env.life();
        env.during(&mut old, life).await?;
        if env.testbed.is_over() {
            break;
        }
        let (new, how) = match round % 3 {
            // It starts while the other serves, gets the load, and then the other stops.
            1 => {
                let mut new = env.start().await?;
                let life = env.life();
                env.during(&mut new, life).await?;
                env.stop(old).await?;
                (new, "stopped after its successor had started")
            }
            // It starts while the other drains.
            2 => {
                old.terminate()?;
                let new = env.start().await?;
                env.stopped(old).await?;
                (new, "stopped before its successor was started")
            }
            // It has to adopt the folder of a process that exits after its own start.
            _ => {
                let mut new = env.start().await?;
                env.send_load_to(&old)?;
                let life = env.life();
                env.during(&mut new, life).await?;
                env.kill(old).await?;
                env.send_load_to(&new)?;
                (new, "killed beside its successor")
            }
        };
        old = new;
        env.testbed.say(&format!("round {round} of {}: {how}", env.proof.setup.rounds));
    }
    env.during(&mut old, *env.proof.setup.life.start()).await?;
    Ok(old)
}

//! The tasks of a process whose segments are in the broker.
//!
//! A process that accepts batches adds the segments that it has ended to the work queue ([`enqueue`]), and learns from its
//! inbox when they are stored ([`answers`]). A process that uploads takes segments from the work queue ([`pull`]), and ends the
//! segments of processes that have exited ([`reap`]).

mod answers;
mod enqueue;
mod pull;
mod reap;

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::config::Role;
use crate::context::PipelineContext;
use crate::spool::EndedSegments;
use crate::store::Store;

/// Starts the tasks of a process with this role. They run until the process exits.
pub(crate) fn start(
    tasks: &mut JoinSet<()>,
    (broker, ended): (Arc<Broker>, EndedSegments),
    role: Role,
    context: &PipelineContext,
    (store, prefix): (&Arc<Store>, &str),
) {
    tasks.spawn(Arc::clone(&broker).watch());
    if role.accepts() {
        tasks.spawn(enqueue::run(Arc::clone(&broker), ended, context.clone()));
        let answers = answers::Answers {
            broker: Arc::clone(&broker),
            context: context.clone(),
            store: Arc::clone(store),
            prefix: prefix.to_owned(),
        };
        tasks.spawn(answers.run());
    }
    if role.uploads() {
        let puller = pull::Puller::new(Arc::clone(&broker), context.clone(), (Arc::clone(store), prefix.to_owned()));
        tasks.spawn(puller.run());
        tasks.spawn(reap::Reaper::new(broker, context.clone()).run());
    }
}

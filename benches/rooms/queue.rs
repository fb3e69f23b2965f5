//! A job from its push through the queue to its receipt. Items are jobs.

use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use loadtest::payload::DEFAULT_SIZE;
use millpond::decode::Lines;
use millpond::queue::{Acknowledgement, Job, JobQueue, JobReceiver, Receipt, queue};
use millpond::segment::Compression;
use millpond::spool::{SegmentStatus, Spool};
use tokio::runtime::{Builder, Handle};
use tokio::task::JoinSet;

use crate::sample::{Batch, now};

const MAX_JOBS: usize = 10_000;
const MAX_BYTES: usize = 256 << 20;
/// The limit of the dispatcher.
const DRAIN_MAX_JOBS: usize = 1024;
/// Jobs of all producers in one round.
const ROUND_JOBS: usize = 10_000;

/// On one thread, without wake-ups.
#[divan::bench(args = [1, 10, 100, 1000], max_time = 1)]
fn one_thread(bencher: Bencher<'_, '_>, jobs: usize) {
    let runtime = Builder::new_current_thread().build().unwrap();
    let (queue, mut receiver) = queue(MAX_JOBS, MAX_BYTES, Arc::default());
    let status = status();
    let mut drained = Vec::new();
    let bencher = bencher.counter(ItemsCount::new(jobs)).with_inputs(|| lines(jobs));
    bencher.bench_local_values(|lines| {
        let push = |lines| queue.try_push_for_commit(lines, queue.reserve(None), false).unwrap();
        let mut committed: Vec<_> = lines.into_iter().map(push).collect();
        assert_eq!(runtime.block_on(receiver.recv_many(&mut drained, DRAIN_MAX_JOBS)), jobs);
        acknowledge(&receiver, &status, &mut drained);
        committed.iter_mut().for_each(|outcome| assert!(outcome.try_recv().unwrap().is_ok()));
    });
}

/// Each producer is a task that waits for its receipt before the next push. The receiver has its own thread.
#[divan::bench(args = [1, 16, 128, 1000], max_time = 2)]
fn producers(bencher: Bencher<'_, '_>, producers: usize) {
    let runtime = Builder::new_multi_thread().enable_time().build().unwrap();
    let (queue, receiver) = queue(MAX_JOBS, MAX_BYTES, Arc::default());
    let status = status();
    let handle = runtime.handle().clone();
    let dispatcher = runtime.spawn_blocking(move || serve(&handle, receiver, &status));
    let each = ROUND_JOBS / producers;
    let bencher = bencher.counter(ItemsCount::new(each * producers));
    bencher.with_inputs(|| (0..producers).map(|_| lines(each)).collect::<Vec<_>>()).bench_local_values(|shares| {
        runtime.block_on(async {
            let mut running: JoinSet<_> = shares.into_iter().map(|share| produce(queue.clone(), share)).collect();
            while let Some(done) = running.join_next().await {
                done.unwrap();
            }
        });
    });
    drop(queue);
    runtime.block_on(dispatcher).unwrap();
}

async fn produce(queue: JobQueue, share: Vec<Lines>) {
    for lines in share {
        let committed = queue.try_push_for_commit(lines, queue.reserve(None), false).unwrap();
        committed.await.unwrap().unwrap();
    }
}

/// Acknowledges all jobs until the queue is closed.
fn serve(runtime: &Handle, mut receiver: JobReceiver, status: &Arc<SegmentStatus>) {
    let mut drained = Vec::new();
    while runtime.block_on(receiver.recv_many(&mut drained, DRAIN_MAX_JOBS)) > 0 {
        acknowledge(&receiver, status, &mut drained);
    }
}

fn acknowledge(receiver: &JobReceiver, status: &Arc<SegmentStatus>, drained: &mut Vec<Job>) {
    receiver.record_drained(drained.len());
    for (job, index) in drained.drain(..).zip(0..) {
        let acknowledgement = job.committed(|| Receipt { segment: Arc::clone(status), index });
        acknowledgement.into_iter().for_each(Acknowledgement::send);
    }
}

/// The lines of jobs of one payload each.
fn lines(jobs: usize) -> Vec<Lines> {
    let batch = Batch { payloads: 1, size: DEFAULT_SIZE };
    let Lines { bytes, payloads } = batch.lines(0);
    (0..jobs).map(|_| Lines { bytes: bytes.clone(), payloads }).collect()
}

fn status() -> Arc<SegmentStatus> {
    Spool::in_memory(Compression::None).open(now(), 0).unwrap().status
}

//! The lowest cost of a cycle on Redis: bare commands that guarantee at-least-once delivery only.
//!
//! A task costs `XADD`, a share of an `XREADGROUP`, and one script that acknowledges the entry,
//! stores the result and deletes the entry. There is no count of attempts, no fencing, no retry and
//! no notification of waiting clients.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::aio::MultiplexedConnection;
use redis::streams::StreamReadReply;
use tokio::task::JoinSet;

use super::{Failed, Plan, payload};

const STREAM: &str = "ideal";
const END: &str = "redis.call('XACK', KEYS[1], 'g', ARGV[1]) redis.call('SET', KEYS[2], ARGV[2], \
    'EX', 86400) \
                   return redis.call('XDEL', KEYS[1], ARGV[1])";

/// Enqueues and ends all tasks, both at once.
pub(super) async fn run(plan: &Plan) -> Result<(), Failed> {
    let client = redis::Client::open(plan.store.as_str())?;
    let connection = client.get_multiplexed_async_connection().await?;
    let mut group = redis::cmd("XGROUP");
    group.arg("CREATE").arg(STREAM).arg("g").arg("0").arg("MKSTREAM");
    group.query_async::<()>(&mut connection.clone()).await?;
    let consumer = tokio::spawn(consume(client, connection.clone(), plan.tasks, plan.concurrency));
    produce(connection, plan).await?;
    consumer.await?
}

async fn produce(connection: MultiplexedConnection, plan: &Plan) -> Result<(), Failed> {
    let (made, data) = (Arc::new(AtomicUsize::new(0)), payload(plan.payload));
    let mut producers = JoinSet::new();
    for _ in 0..plan.producers {
        let (mut connection, made, data, tasks) =
            (connection.clone(), made.clone(), data.clone(), plan.tasks);
        producers.spawn(async move {
            while made.fetch_add(1, Ordering::Relaxed) < tasks {
                let mut add = redis::cmd("XADD");
                add.arg(STREAM).arg("*").arg("data").arg(&data);
                add.query_async::<()>(&mut connection).await?;
            }
            Ok::<(), Failed>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done??;
    }
    Ok(())
}

async fn consume(
    client: redis::Client,
    shared: MultiplexedConnection,
    tasks: usize,
    concurrency: usize,
) -> Result<(), Failed> {
    let script = Arc::new(redis::Script::new(END));
    let mut own = client.get_multiplexed_async_connection().await?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP")
        .arg("g")
        .arg("c")
        .arg("COUNT")
        .arg(concurrency)
        .arg("STREAMS")
        .arg(STREAM)
        .arg(">");
    let (mut ended, mut running) = (0, JoinSet::new());
    while ended < tasks {
        let entries: Option<StreamReadReply> = read.query_async(&mut own).await?;
        for entry in entries.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids)
        {
            let (script, mut shared) = (script.clone(), shared.clone());
            running.spawn(async move {
                let mut call = script.prepare_invoke();
                call.key(STREAM)
                    .key(format!("ideal:result:{}", entry.id))
                    .arg(entry.id)
                    .arg("{\"ok\":true}");
                call.invoke_async::<u64>(&mut shared).await
            });
        }
        // no more tasks run at a time than a worker pool of this concurrency has slots
        while let Some(done) = running.join_next().await {
            done??;
            ended += 1;
        }
    }
    Ok(())
}

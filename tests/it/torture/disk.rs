//! The embedded store's file when the power goes or the disk is full.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use omnidaemon::store::{SqliteStore, TaskQueue as _, TaskReader as _};
use omnidaemon::task::{Task, TaskId};
use serde_json::json;

use super::journal::{TortureJournal, serve_handlers};
use crate::support::http::client::HttpResponse;
use crate::support::scenario::scenario;
use crate::support::wall_clock::wall_clock_now;
use crate::support::{Omnidaemon, TEST_DEADLINE, wait_until};

/// What SQLite says of its file.
fn check_integrity(database: &Path) -> String {
    let connection = rusqlite::Connection::open(database).expect("opens");
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked")
}

async fn start_server(dir: &Path, data: &Path) -> Omnidaemon {
    let handlers = serve_handlers(TortureJournal::open(&dir.join("journal"))).await;
    let data = data.to_str().expect("UTF-8");
    scenario()
        .upstream_url(format!("http://{handlers}"))
        .store_url(format!("sqlite:{data}/tasks.db"))
        .yaml("store.timeout", "5s")
        .percent(100)
        .workers(0)
        .start_server()
        .await
}

#[tokio::test]
async fn a_process_killed_while_it_writes_leaves_a_sound_file_with_every_accepted_task() {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut omni = start_server(dir.path(), &data).await;
    for _ in 0..3 {
        let clients = (0..8).map(|_| {
            let client = omni.data_client();
            tokio::spawn(async move {
                let mut accepted = Vec::new();
                loop {
                    let body = json!({"sleep_ms": 0, "fail": 0});
                    let request = client.request(http::Method::POST, "/invoke/async").json(&body);
                    match HttpResponse::try_from_request(request).await {
                        Ok(answer) if answer.status == 202 => {
                            accepted.push(answer.json()["poll_url"].clone());
                        }
                        _ => return accepted,
                    }
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        let size = || std::fs::metadata(data.join("tasks.db-wal")).map_or(0, |file| file.len());
        let before = size();
        wait_until(TEST_DEADLINE, "the file is written to", async || {
            size() > before + 200_000 || size() < before
        })
        .await;
        omni.kill();
        omni.wait_for_exit().await;
        let mut accepted = Vec::new();
        for client in clients {
            accepted.extend(client.await.expect("joined"));
        }
        assert_eq!(check_integrity(&data.join("tasks.db")), "ok");
        omni.restart().await;
        assert!(!accepted.is_empty());
        for poll in accepted {
            let task = omni.data_client().get(poll.as_str().expect("a URL")).await;
            assert_eq!((task.status.as_u16(), &task.json()["status"]), (200, &json!("queued")));
        }
    }
}

/// What a disk may have of a log whose last pages were still on their way: all that was synced, and
/// some of the rest.
#[tokio::test]
async fn a_log_that_ends_anywhere_opens_with_a_prefix_of_what_was_enqueued() {
    let dir = tempfile::tempdir().expect("a directory");
    let database = dir.path().join("tasks.db");
    let store = SqliteStore::open(&database).expect("opens");
    let queue = crate::store::contract::test_queue("t");
    let mut ids = Vec::new();
    for _ in 0..40 {
        let task = Task::new(
            TaskId::new(wall_clock_now(), rand::random()),
            queue.topic.clone(),
            "{}",
            wall_clock_now(),
        );
        store.enqueue(&task, &queue).await.expect("enqueued");
        ids.push(task.id);
    }
    let log = std::fs::read(wal_path(&database)).expect("the log can be read");
    let (mut found, cut) = (BTreeSet::new(), dir.path().join("cut"));
    for part in 0..=12 {
        std::fs::create_dir(&cut).expect("a directory");
        let copy = cut.join("tasks.db");
        std::fs::copy(&database, &copy).expect("copied");
        // Odd lengths too: a page may be there in part.
        std::fs::write(wal_path(&copy), &log[..log.len() * part / 12]).expect("written");
        // The smallest of them end before the tables were made: as a new file, it is made again.
        let reopened =
            SqliteStore::open(&copy).unwrap_or_else(|error| panic!("{part}/12: {error}"));
        let mut known = Vec::new();
        for id in &ids {
            known.push(reopened.get_task(id).await.expect("answers").is_some());
        }
        let count = known.iter().filter(|known| **known).count();
        assert!(
            known[..count].iter().all(|known| *known),
            "{part}/12: one is missing before the last: {known:?}"
        );
        let depth =
            reopened.load_queue_depths(std::slice::from_ref(&queue)).await.expect("answers");
        assert_eq!(depth[0].queued, count as u64);
        drop(reopened);
        assert_eq!(check_integrity(&copy), "ok");
        found.insert(count);
        std::fs::remove_dir_all(&cut).expect("removed");
    }
    assert!(found.len() > 3 && found.contains(&ids.len()), "the log was cut nowhere: {found:?}");
}

fn wal_path(database: &Path) -> PathBuf {
    database.with_extension("db-wal")
}

/// A small disk of its own; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None where this user may not mount.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).expect("a directory");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(&at);
        mount.output().is_ok_and(|done| done.status.success()).then_some(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn on_a_full_disk_a_submission_is_503_and_what_was_accepted_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(disk) = SmallDisk::mount(dir.path().join("small")) else {
        eprintln!("not tested: only root may mount a small disk");
        return;
    };
    let omni = start_server(dir.path(), &disk.0).await;
    let big = json!({"sleep_ms": 0, "fail": 0, "padding": "x".repeat(50_000)});
    let mut accepted = Vec::new();
    let refused = loop {
        let answer = omni.data_client().post("/invoke/async", &big).await;
        if answer.status != 202 {
            break answer;
        }
        accepted.push(answer.json()["poll_url"].as_str().expect("a poll URL").to_owned());
        assert!(accepted.len() < 100, "2 MB hold no 5 MB");
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(accepted.len() > 3, "the disk is not that small");
    let call = omni.data_client().post("/invoke", &big).await;
    assert_eq!(
        (call.status.as_u16(), call.header("x-omnidaemon-path")),
        (200, Some("sync")),
        "{}",
        call.text()
    );
    for poll in &accepted {
        assert_eq!(omni.data_client().get(poll).await.json()["status"], "queued");
    }
    std::fs::write(disk.0.join("grown"), "").expect("even now an empty file has room");
    let remounted = Command::new("mount").args(["-o", "remount,size=64m"]).arg(&disk.0).status();
    assert!(remounted.is_ok_and(|status| status.success()));
    wait_until(Duration::from_secs(30), "with room again it takes tasks", async || {
        omni.data_client().post("/invoke/async", &big).await.status == 202
    })
    .await;
}

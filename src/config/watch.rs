//! Watches the configuration file and sends a message when its content has changed.
//!
//! The parent directory is watched, not the file: editors replace files, and a Kubernetes ConfigMap
//! swaps a symlink beside the file. A file system event, or a poll every 3 s for file systems
//! without events, only starts a comparison: the content has changed when its digest differs. The
//! digest must stay the same for 100 ms first, so that a half-written file is not reported.

use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::load::{content_digest, read_bounded};

/// How often the file is read when no event comes.
const POLL_INTERVAL: Duration = Duration::from_secs(3);
/// How long the digest must stay the same before a change is reported.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// Sends to `changed` each time that the content of `path` has changed.
///
/// The first comparison is with `loaded`, the [digest](super::LoadedConfig::content_digest) of the
/// configuration in use. The task ends at `shutdown`, or when the receiver of `changed` is dropped.
/// Deletion of the file is not reported: the watcher waits until the file exists again.
pub async fn watch_for_changes(
    path: PathBuf,
    loaded: String,
    changed: mpsc::Sender<()>,
    shutdown: CancellationToken,
) {
    let _ = shutdown.run_until_cancelled(watch_loop(path, loaded, changed)).await;
}

async fn watch_loop(path: PathBuf, mut seen: String, changed: mpsc::Sender<()>) {
    let (wake, mut woken) = mpsc::channel(1);
    let _watcher = watch_parent_dir(&path, wake).inspect_err(|error| {
        tracing::warn!(%error, path = %path.display(), "config file is \
            polled, not watched");
    });
    let mut polls = interval(POLL_INTERVAL);
    polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_missing = false;
    while !changed.is_closed() {
        tokio::select! {
            _ = polls.tick() => {}
            Some(()) = woken.recv() => {}
        }
        let digest = await_stable_digest(&path).await;
        if digest.is_none() && !is_missing {
            tracing::warn!(path = %path.display(), "config file is gone: the running config is \
                kept");
        }
        is_missing = digest.is_none();
        if let Some(digest) = digest.filter(|digest| *digest != seen) {
            seen = digest;
            if changed.send(()).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until the content has stopped changing, and returns its digest; none without a file.
async fn await_stable_digest(path: &Path) -> Option<String> {
    let mut previous = read_digest(path).await;
    loop {
        sleep(SETTLE_TIME).await;
        let digest = read_digest(path).await;
        if digest == previous {
            return digest;
        }
        previous = digest;
    }
}

async fn read_digest(path: &Path) -> Option<String> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        read_bounded(&path).ok().map(|bytes| content_digest(&bytes))
    })
    .await
    .ok()
    .flatten()
}

fn watch_parent_dir(path: &Path, wake: mpsc::Sender<()>) -> notify::Result<RecommendedWatcher> {
    let parent =
        path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        if event.is_ok_and(|event| may_change_content(&event)) {
            // When the channel is full, a wake-up is pending already.
            let _ = wake.try_send(());
        }
    })?;
    watcher.watch(parent, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}

/// Whether an event may be a change of content. Reads, such as the watcher's own, are events too.
fn may_change_content(event: &Event) -> bool {
    match event.kind {
        EventKind::Access(kind) => kind == AccessKind::Close(AccessMode::Write),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    const TEST_TIMEOUT: Duration = Duration::from_secs(30);

    /// A watched file in a directory of its own.
    struct WatchedConfigFile {
        dir: TempDir,
        file: PathBuf,
        changed: mpsc::Receiver<()>,
        shutdown: CancellationToken,
        task: JoinHandle<()>,
    }

    impl WatchedConfigFile {
        /// Watches the file `name`, which has `content`, and waits for the first report, after
        /// which the watcher is running.
        async fn start(dir: TempDir, name: &str, content: &str) -> Self {
            let (sender, changed) = mpsc::channel(1);
            let (file, shutdown) = (dir.path().join(name), CancellationToken::new());
            let task = tokio::spawn(watch_for_changes(
                file.clone(),
                content_digest(b"loaded before"),
                sender,
                shutdown.clone(),
            ));
            let mut watched = Self { dir, file, changed, shutdown, task };
            assert_eq!(watched.await_change().await, content);
            watched
        }

        /// Waits for the next report, and returns the content of the file at that time.
        async fn await_change(&mut self) -> String {
            timeout(TEST_TIMEOUT, self.changed.recv())
                .await
                .expect("reported in time")
                .expect("still watched");
            fs::read_to_string(&self.file).expect("a file")
        }

        async fn stop(mut self) {
            assert!(self.changed.try_recv().is_err(), "reported without a change");
            self.shutdown.cancel();
            timeout(TEST_TIMEOUT, self.task).await.expect("stops").expect("without a panic");
        }
    }

    fn dir_with_config(content: &str) -> TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("c.yaml"), content).expect("a file");
        dir
    }

    #[tokio::test]
    async fn a_plain_save_is_reported_and_the_same_content_is_not() {
        let mut watched = WatchedConfigFile::start(dir_with_config("a"), "c.yaml", "a").await;
        fs::write(&watched.file, "a").expect("saved unchanged");
        fs::write(&watched.file, "b").expect("saved");
        assert_eq!(watched.await_change().await, "b");
        fs::write(watched.dir.path().join("other.yaml"), "x").expect("another file");
        fs::write(&watched.file, "b").expect("saved unchanged");
        fs::write(&watched.file, "c").expect("saved");
        assert_eq!(watched.await_change().await, "c");
        watched.stop().await;
    }

    #[tokio::test]
    async fn an_atomic_rename_is_reported() {
        let mut watched = WatchedConfigFile::start(dir_with_config("a"), "c.yaml", "a").await;
        for content in ["b", "c"] {
            let next = watched.dir.path().join(".c.yaml.swp");
            fs::write(&next, content).expect("written beside");
            fs::rename(&next, &watched.file).expect("moved over");
            assert_eq!(watched.await_change().await, content);
        }
        watched.stop().await;
    }

    /// Points `..data` to a new directory with the file in it, as a kubelet does.
    fn swap_config_map(dir: &Path, version: &str, content: &str) {
        fs::create_dir(dir.join(version)).expect("a version");
        fs::write(dir.join(version).join("c.yaml"), content).expect("its file");
        symlink(version, dir.join("..data_tmp")).expect("a link to it");
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).expect("swapped");
    }

    #[tokio::test]
    async fn a_config_map_swap_is_reported() {
        let dir = tempfile::tempdir().expect("a directory");
        swap_config_map(dir.path(), "..2024_1", "a");
        symlink("..data/c.yaml", dir.path().join("c.yaml")).expect("the file");
        let mut watched = WatchedConfigFile::start(dir, "c.yaml", "a").await;
        swap_config_map(watched.dir.path(), "..2024_2", "b");
        fs::remove_dir_all(watched.dir.path().join("..2024_1")).expect("the old version goes");
        assert_eq!(watched.await_change().await, "b");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_deleted_file_is_waited_for() {
        let mut watched = WatchedConfigFile::start(dir_with_config("a"), "c.yaml", "a").await;
        fs::remove_file(&watched.file).expect("deleted");
        assert_eq!(await_stable_digest(&watched.file).await, None);
        assert!(watched.changed.try_recv().is_err(), "reported a deleted file");
        fs::write(&watched.file, "b").expect("back");
        assert_eq!(watched.await_change().await, "b");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_file_that_is_linked_from_elsewhere_is_polled() {
        let (dir, elsewhere) = (tempfile::tempdir().expect("a directory"), dir_with_config("a"));
        symlink(elsewhere.path().join("c.yaml"), dir.path().join("c.yaml")).expect("a link");
        let mut watched = WatchedConfigFile::start(dir, "c.yaml", "a").await;
        fs::write(elsewhere.path().join("c.yaml"), "b").expect("saved without an event here");
        assert_eq!(watched.await_change().await, "b");
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_directory_that_is_replaced_is_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).expect("a directory");
        fs::write(inner.join("c.yaml"), "a").expect("a file");
        let mut watched = WatchedConfigFile::start(dir, "inner/c.yaml", "a").await;
        for content in ["b", "c"] {
            fs::remove_dir_all(&inner).expect("gone, and its watch");
            fs::create_dir(&inner).expect("a directory again");
            fs::write(&watched.file, content).expect("a file");
            assert_eq!(watched.await_change().await, content);
        }
        watched.stop().await;
    }

    #[tokio::test]
    async fn a_file_that_is_the_same_as_when_it_was_loaded_is_not_reported() {
        let dir = dir_with_config("a");
        let (sender, mut changed) = mpsc::channel(1);
        let (file, shutdown) = (dir.path().join("c.yaml"), CancellationToken::new());
        let task = tokio::spawn(watch_for_changes(
            file.clone(),
            content_digest(b"a"),
            sender,
            shutdown.clone(),
        ));
        assert_eq!(await_stable_digest(&file).await, Some(content_digest(b"a")));
        fs::write(&file, "b").expect("saved");
        let report = timeout(TEST_TIMEOUT, changed.recv()).await.expect("reported in time");
        report.expect("still watched");
        assert_eq!(
            (fs::read_to_string(&file).expect("a file").as_str(), changed.try_recv().is_err()),
            ("b", true)
        );
        shutdown.cancel();
        timeout(TEST_TIMEOUT, task).await.expect("stops").expect("without a panic");
    }
}

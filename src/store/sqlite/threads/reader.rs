//! The reader: one thread with a read-only connection, which sees each commit and waits for none.

use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::{self, JoinHandle};

use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::store::error::StoreError;

type ReaderQuery = Box<dyn FnOnce(&Connection) + Send>;

/// The handle of the reader thread; dropping it joins the thread.
pub(crate) struct ReaderThread {
    queries: Option<Sender<ReaderQuery>>,
    thread: Option<JoinHandle<()>>,
}

impl ReaderThread {
    /// Starts the thread.
    pub(crate) fn start(connection: Connection) -> std::io::Result<Self> {
        let (queries, received): (_, Receiver<ReaderQuery>) = mpsc::channel();
        let run = move || received.iter().for_each(|query| query(&connection));
        let thread = thread::Builder::new().name("sqlite-reader".into()).spawn(run)?;
        Ok(Self { queries: Some(queries), thread: Some(thread) })
    }

    /// Queues a query; false when the thread has ended.
    pub(crate) fn send_query(&self, query: impl FnOnce(&Connection) + Send + 'static) -> bool {
        self.queries.as_ref().is_some_and(|queries| queries.send(Box::new(query)).is_ok())
    }

    /// Runs a query and returns its answer.
    pub(crate) async fn run_query<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send_query(move |connection| drop(reply.send(query(connection))));
        answer
            .await
            .unwrap_or_else(|_| Err(StoreError::Unreachable("its reader thread has ended".into())))
    }
}

impl Drop for ReaderThread {
    fn drop(&mut self) {
        drop(self.queries.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the embedded store's reader thread panicked");
        }
    }
}

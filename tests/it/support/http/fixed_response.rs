//! An upstream that answers every request with the same bytes, however wrong, and counts what it
//! got.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What happens on a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterResponse {
    /// It stays open for more.
    KeepOpen,
    /// It is closed when the next request has come.
    CloseOnNextRequest,
}

/// A listening script; it ends with the test's runtime.
pub struct FixedResponseServer {
    addr: String,
    request_count: Arc<AtomicUsize>,
}

impl FixedResponseServer {
    /// Starts one that says `answer` as soon as a request's head has come.
    pub async fn start(answer: &'static [u8], then: AfterResponse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("there is a free port");
        let addr = listener.local_addr().expect("a bound socket has an address").to_string();
        let requests = Arc::<AtomicUsize>::default();
        let counted = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve_connection(stream, answer, then, counted.clone()));
            }
        });
        Self { addr, request_count: requests }
    }

    /// `http://127.0.0.1:PORT`
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// How many requests it got, the proxy's start-up checks aside.
    pub fn request_count(&self) -> usize {
        self.request_count.load(Ordering::Relaxed)
    }
}

async fn serve_connection(
    mut stream: TcpStream,
    answer: &[u8],
    then: AfterResponse,
    requests: Arc<AtomicUsize>,
) {
    let mut answered = 0;
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await.is_ok_and(|n| n > 0) {
        if !read.windows(4).any(|window| window == b"\r\n\r\n") {
            continue;
        }
        if !String::from_utf8_lossy(&read).contains("start-up check") {
            requests.fetch_add(1, Ordering::Relaxed);
        }
        read.clear();
        if (then == AfterResponse::CloseOnNextRequest && answered > 0)
            || stream.write_all(answer).await.is_err()
        {
            return;
        }
        answered += 1;
    }
}

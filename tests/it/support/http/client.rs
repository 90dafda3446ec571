//! Requests as a client makes them, and connections whose every byte a test writes.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::TEST_DEADLINE;

/// A client of one base URL. It follows no redirects and knows no proxies; a request may take long,
/// as a test that hangs is nextest's to end.
#[derive(Clone)]
pub struct HttpClient {
    http: reqwest::Client,
    base_url: String,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl HttpClient {
    /// A client of `base`, such as `http://127.0.0.1:8000`.
    pub fn new(base: &str) -> Self {
        let http =
            reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http
            .connect_timeout(Duration::from_secs(5))
            .build()
            .expect("a client without TLS can be built");
        Self { http, base_url: base.to_owned() }
    }

    /// A request to build on, for what the short forms below don't say; end it with [`Answer::to`].
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base_url))
    }

    /// `GET path`
    pub async fn get(&self, path: &str) -> HttpResponse {
        HttpResponse::from_request(self.request(Method::GET, path)).await
    }

    /// `POST path` with a JSON body.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> HttpResponse {
        HttpResponse::from_request(self.request(Method::POST, path).json(body)).await
    }

    /// `DELETE path`
    pub async fn delete(&self, path: &str) -> HttpResponse {
        HttpResponse::from_request(self.request(Method::DELETE, path)).await
    }
}

impl HttpResponse {
    /// Sends a request and reads all of its answer.
    ///
    /// # Panics
    /// When there is none.
    pub async fn from_request(request: reqwest::RequestBuilder) -> Self {
        Self::try_from_request(request).await.unwrap_or_else(|error| panic!("no answer: {error:?}"))
    }

    /// The same, where having no answer is an answer.
    pub async fn try_from_request(request: reqwest::RequestBuilder) -> reqwest::Result<Self> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, body: response.bytes().await?.to_vec() })
    }

    /// A header as text; none when it is absent.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("the test's headers are ASCII"))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        self.json_as()
    }

    /// The body as a type of the test's.
    pub fn json_as<T: DeserializeOwned>(&self) -> T {
        let read = serde_json::from_slice(&self.body);
        read.unwrap_or_else(|error| panic!("{}: {error} in {:?}", self.status, self.text()))
    }
}

/// Writes `request` on a new connection and reads until the other side closes it: say `connection:
/// close`.
pub async fn exchange_raw(addr: &str, request: &[u8]) -> Vec<u8> {
    let mut connection = RawConnection::open(addr).await;
    connection.send_bytes(request).await;
    connection.read_to_end().await
}

/// A connection whose every byte a test writes and sees.
pub struct RawConnection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl RawConnection {
    /// Connects to `addr`, such as `127.0.0.1:8000`.
    pub async fn open(addr: &str) -> Self {
        let stream =
            TcpStream::connect(addr).await.unwrap_or_else(|error| panic!("{addr}: {error}"));
        stream.set_nodelay(true).expect("a TCP socket takes TCP_NODELAY");
        Self { stream, unread: Vec::new() }
    }

    /// Writes bytes, at once.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the other side reads");
    }

    /// Ends the test's direction only, as a client that half-closes.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("a connection can be half-closed");
    }

    /// Reads up to and with `mark`, such as the empty line after a head.
    ///
    /// # Panics
    /// When the connection ends or stalls before it.
    pub async fn read_until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.unread.windows(mark.len()).position(|window| window == mark) {
                return self.unread.drain(..at + mark.len()).collect();
            }
            assert!(
                self.fill_buffer().await > 0,
                "the connection ended after {:?}",
                String::from_utf8_lossy(&self.unread)
            );
        }
    }

    /// Reads exactly `n` bytes.
    ///
    /// # Panics
    /// When the connection ends or stalls before them.
    pub async fn read_exactly(&mut self, n: usize) -> Vec<u8> {
        while self.unread.len() < n {
            assert!(
                self.fill_buffer().await > 0,
                "the connection ended {} bytes short",
                n - self.unread.len()
            );
        }
        self.unread.drain(..n).collect()
    }

    /// Reads until the other side closes or resets.
    ///
    /// # Panics
    /// When it does neither in good time.
    pub async fn read_to_end(&mut self) -> Vec<u8> {
        while self.fill_buffer().await > 0 {}
        std::mem::take(&mut self.unread)
    }

    /// How much more there is; 0 at the end, which a reset is too.
    async fn fill_buffer(&mut self) -> usize {
        let read = timeout(TEST_DEADLINE, self.stream.read_buf(&mut self.unread)).await;
        read.unwrap_or_else(|_| {
            panic!("nothing more after {:?}", String::from_utf8_lossy(&self.unread))
        })
        .unwrap_or(0)
    }
}

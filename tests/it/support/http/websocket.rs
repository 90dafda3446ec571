//! A WebSocket client (RFC 6455) of short text messages, written out so that a test sees every
//! frame.

use crate::support::http::client::RawConnection;

/// The nonce of RFC 6455, section 1.3, and what a server must make of it.
const HANDSHAKE_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const HANDSHAKE_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

const TEXT_FRAME: u8 = 0x81;
const CLOSE_FRAME: u8 = 0x88;
const MASK_BIT: u8 = 0x80;
const MASK_KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An open WebSocket.
pub struct WebSocketClient(RawConnection);

impl WebSocketClient {
    /// Opens one at `path` of `addr`; also returns the head of the answer.
    ///
    /// # Panics
    /// When the server does not switch, or did not see the key.
    pub async fn open(addr: &str, path: &str) -> (Self, String) {
        let mut connection = RawConnection::open(addr).await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {addr}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: {HANDSHAKE_KEY}\r\n\r\n"
        );
        connection.send_bytes(request.as_bytes()).await;
        let head = String::from_utf8_lossy(&connection.read_until(b"\r\n\r\n").await).into_owned();
        assert!(
            head.starts_with("HTTP/1.1 101 ") && head.contains(HANDSHAKE_ACCEPT),
            "no WebSocket: {head}"
        );
        (Self(connection), head)
    }

    /// Sends a text of at most 125 bytes.
    pub async fn send_text(&mut self, text: &str) {
        self.send_frame(TEXT_FRAME, text.as_bytes()).await;
    }

    /// The next text.
    ///
    /// # Panics
    /// When what comes is no short text.
    pub async fn next_text(&mut self) -> String {
        let head = self.0.read_exactly(2).await;
        assert!(head[0] == TEXT_FRAME && head[1] < 126, "not a short text: {head:?}");
        String::from_utf8(self.0.read_exactly(head[1].into()).await).expect("a text is UTF-8")
    }

    /// Closes, and waits until the server has closed too.
    pub async fn close(mut self) {
        self.send_frame(CLOSE_FRAME, &[]).await;
        let rest = self.0.read_to_end().await;
        assert_eq!(rest.first(), Some(&CLOSE_FRAME), "a close is answered");
    }

    async fn send_frame(&mut self, kind: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).ok().filter(|&n| n < 126).expect("short");
        let mut frame = vec![kind, MASK_BIT | length];
        frame.extend(MASK_KEY);
        frame.extend(payload.iter().zip(MASK_KEY.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        self.0.send_bytes(&frame).await;
    }
}

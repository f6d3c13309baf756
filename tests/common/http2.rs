//! A client of HTTP/2 that sends what it is told, frame by frame where that matters.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use hyper::{HeaderMap, Request};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// Longest wait for an answer: only a failing test sees it.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection, driven by a task of its own.
pub struct Http2 {
    pub send: SendRequest<Bytes>,
    /// Ends with the connection.
    pub driver: JoinHandle<Result<(), h2::Error>>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer2 {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer2 {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Http2 {
    /// By prior knowledge.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// On a stream that is there, such as one of TLS.
    pub async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (send, connection) = h2::client::handshake(io).await.unwrap();
        Self { send, driver: tokio::spawn(connection) }
    }

    /// Opens a stream with that much of a body; more may follow where `end` is false.
    pub async fn open(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
        end: bool,
    ) -> Result<(ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut request = Request::builder().method(method).uri(format!("http://test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut ready = self.send.clone().ready().await?;
        let (answer, mut stream) = ready.send_request(request.body(()).unwrap(), end && body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::copy_from_slice(body), end)?;
        }
        Ok((answer, stream))
    }

    /// A whole request and its answer.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Answer2, h2::Error> {
        let (answer, _stream) = self.open(method, path, headers, body, true).await?;
        answered(answer).await
    }
}

/// Reads an answer whole.
pub async fn answered(answer: ResponseFuture) -> Result<Answer2, h2::Error> {
    let read = async {
        let (head, mut stream) = answer.await?.into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            stream.flow_control().release_capacity(data.len())?;
            body.extend_from_slice(&data);
        }
        Ok(Answer2 { status: head.status.as_u16(), headers: head.headers, body })
    };
    tokio::time::timeout(PATIENCE, read).await.expect("no answer came")
}

/// Waits for the end of a connection, which is sure to come.
pub async fn ended(driver: JoinHandle<Result<(), h2::Error>>) -> Result<(), h2::Error> {
    tokio::time::timeout(PATIENCE, driver).await.expect("the connection never ended").unwrap()
}

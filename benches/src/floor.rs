//! Is the floor: the least a server must do to write WebSocket frames to sockets it accepted.
//!
//! No HTTP library, no registry but a vector, no queue: a frame is encoded once and written to each
//! socket in turn. Nothing is authenticated, logged or stored.

use std::sync::{Arc, Mutex};

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

type Sockets = Arc<Mutex<Vec<Arc<tokio::sync::Mutex<OwnedWriteHalf>>>>>;

/// Listens on two free ports, prints them, and serves until its standard input ends.
pub(crate) async fn serve() -> anyhow::Result<()> {
    let sockets = TcpListener::bind("127.0.0.1:0").await?;
    let control = TcpListener::bind("127.0.0.1:0").await?;
    #[expect(clippy::print_stdout, reason = "the parent reads the ports from here")]
    {
        println!(
            "{} {}",
            sockets.local_addr()?.port(),
            control.local_addr()?.port()
        );
    }
    let open = Sockets::default();
    tokio::spawn(accept(sockets, Arc::clone(&open)));
    tokio::spawn(obey(control, open));
    let mut nothing = Vec::new();
    tokio::io::stdin().read_to_end(&mut nothing).await?;
    Ok(())
}

async fn accept(listener: TcpListener, open: Sockets) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let open = Arc::clone(&open);
        tokio::spawn(async move { socket(stream, &open).await });
    }
}

/// Answers the handshake with a fixed text (the load generator does not check the key) and reads on.
async fn socket(stream: TcpStream, open: &Sockets) -> anyhow::Result<()> {
    let (mut read, mut write) = stream.into_split();
    read_request(&mut read).await?;
    write.write_all(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n").await?;
    lock(open).push(Arc::new(tokio::sync::Mutex::new(write)));
    loop {
        read.readable().await?;
        let mut buffer = [0_u8; 512];
        match read.try_read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.into()),
        }
    }
}

async fn read_request(read: &mut OwnedReadHalf) -> anyhow::Result<()> {
    let mut request = Vec::with_capacity(1024);
    while !request.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(read.read_buf(&mut request).await? > 0, "the client left");
    }
    Ok(())
}

/// Each control line is `*` or a socket's number, a space, and the payload to write.
async fn obey(listener: TcpListener, open: Sockets) -> anyhow::Result<()> {
    let (stream, _) = listener.accept().await?;
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next_line().await? {
        let (whom, payload) = line.split_once(' ').context("a line is whom and what")?;
        let frame = frame(payload.as_bytes())?;
        let sockets = match whom.parse::<usize>() {
            Ok(one) => lock(&open).get(one).cloned().into_iter().collect(),
            Err(_everybody) => lock(&open).clone(),
        };
        for socket in sockets {
            socket.lock().await.write_all(&frame).await?;
        }
    }
    Ok(())
}

/// A text frame from a server, RFC 6455 §5.2.
fn frame(payload: &[u8]) -> anyhow::Result<Vec<u8>> {
    let length = u16::try_from(payload.len())?;
    let mut frame = Vec::with_capacity(payload.len() + 4);
    match u8::try_from(length) {
        Ok(short) if short < 126 => frame.extend([0x81, short]),
        _ => {
            frame.extend([0x81, 126]);
            frame.extend(length.to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    Ok(frame)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

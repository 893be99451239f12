//! Stands between two peers on loopback, and takes the network away from them.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Up,
    /// Connections break, and new ones are refused.
    Cut,
    /// No byte gets through, and nobody is told.
    BlackHole,
}

/// A proxy for one address.
pub(crate) struct Proxy {
    listens: SocketAddr,
    network: watch::Sender<Network>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(to: &str) -> Self {
        Self::at("127.0.0.1:0", to).await
    }

    /// One that listens there.
    pub(crate) async fn at(listen: &str, to: &str) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let listens = listener.local_addr().unwrap();
        let network = watch::Sender::new(Network::Up);
        let serving = serve(listener, listens, to.to_owned(), network.subscribe());
        Self {
            listens,
            network,
            task: tokio::spawn(serving),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.listens.to_string()
    }

    /// Breaks every connection and refuses new ones.
    pub(crate) fn cut(&self) {
        self.network.send_replace(Network::Cut);
    }

    /// Lets nothing through in either direction: as where packets are dropped.
    pub(crate) fn black_hole(&self) {
        self.network.send_replace(Network::BlackHole);
    }

    /// Lets everything through again; what waited in a black hole comes at last.
    pub(crate) fn heal(&self) {
        self.network.send_replace(Network::Up);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn serve(
    listener: TcpListener,
    listens: SocketAddr,
    to: String,
    mut network: watch::Receiver<Network>,
) {
    let mut listener = Some(listener);
    loop {
        if *network.borrow_and_update() == Network::Cut {
            drop(listener.take());
            if network.wait_for(|now| *now != Network::Cut).await.is_err() {
                return;
            }
        }
        let accepting = match &listener {
            Some(listener) => listener,
            None => listener.insert(TcpListener::bind(listens).await.unwrap()),
        };
        tokio::select! {
            accepted = accepting.accept() => {
                let (client, _) = accepted.unwrap();
                tokio::spawn(relay(client, to.clone(), network.clone()));
            }
            changed = network.changed() => if changed.is_err() { return },
        }
    }
}

async fn relay(client: TcpStream, to: String, mut network: watch::Receiver<Network>) {
    let mut until_cut = network.clone();
    let relaying = async {
        if network.wait_for(|now| *now == Network::Up).await.is_err() {
            return;
        }
        let Ok(server) = TcpStream::connect(to).await else {
            return;
        };
        let _slower = (client.set_nodelay(true), server.set_nodelay(true));
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            pump(client_read, server_write, network.clone()),
            pump(server_read, client_write, network.clone()),
        );
    };
    tokio::select! {
        () = relaying => {}
        _cut = until_cut.wait_for(|now| *now == Network::Cut) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut network: watch::Receiver<Network>,
) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read) = from.read(&mut buffer).await else {
            return;
        };
        if network.wait_for(|now| *now == Network::Up).await.is_err() {
            return;
        }
        if read == 0 {
            let _gone = to.shutdown().await;
            return;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

//! The socket: accepts connections, bounds their number and their slowness, and ends in order.

use std::net::SocketAddr;
use std::net::ToSocketAddrs as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_io_timeout::TimeoutStream;

use crate::console::say;
use crate::interrupt::Interrupt;

use super::http::router;
use super::options::ServeOptions;
use super::state::App;

/// Time to finish what is running after a signal.
pub(super) const GRACE: Duration = Duration::from_secs(30);
/// Time to send what is finished, or that it was cut off, after that.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How often a signal is looked for, and whether texts are still running.
const TICK: Duration = Duration::from_millis(20);
/// Connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 512;

/// An address that is taken, on which nothing listens yet.
pub struct Address {
    runtime: Runtime,
    socket: TcpSocket,
    address: SocketAddr,
}

impl Address {
    /// Takes an address, so that one that is in use is an error before a model is loaded. Port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// Returns an error if the host is unknown or the address cannot be taken.
    pub fn take(host: &str, port: u16) -> Result<Self> {
        // Requests are parsed and tokenised here; the model has a thread of its own.
        let runtime = Builder::new_multi_thread().worker_threads(2).max_blocking_threads(4).enable_all().build();
        let runtime = runtime.context("the threads of the server could not be started")?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = (host, port).to_socket_addrs().ok().and_then(|mut addresses| addresses.next());
        let address = address.with_context(|| format!("--host {host} is no address of this machine"))?;
        let taken = || {
            let _context = runtime.enter();
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // A port is free at once when its last server has ended.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Ok::<_, std::io::Error>((socket.local_addr()?, socket))
        };
        let (address, socket) =
            taken().with_context(|| format!("{address} cannot be listened on: choose another --host or --port"))?;
        Ok(Self { runtime, socket, address })
    }

    /// Returns whether only this machine reaches the address.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Listens until a signal comes.
    pub(super) fn serve(self, app: Arc<App>, options: &ServeOptions, interrupt: &Interrupt) -> Result<()> {
        let Self { runtime, socket, address } = self;
        let router = router(Arc::clone(&app), address.ip().is_loopback());
        let served = runtime.block_on(async move {
            let listener = socket.listen(1024);
            let listener =
                listener.with_context(|| format!("{address} cannot be listened on: choose another --port"))?;
            if !address.ip().is_loopback() && !app.has_api_key() {
                say(&format!(
                    "warning: anyone who reaches {address} can use the model: set --api-key, or leave --host out"
                ));
            }
            say(&format!("listening on http://{address}"));
            run(listener, router, &app, options, interrupt).await;
            Ok(())
        });
        // A prompt that is being tokenised cannot be interrupted.
        runtime.shutdown_timeout(LAST_WORDS);
        served
    }
}

/// Serves connections until a signal comes and what was running is finished.
async fn run(listener: TcpListener, router: Router, app: &App, options: &ServeOptions, interrupt: &Interrupt) {
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let accept = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Of this connection, or of the whole process, which has too many files open; both pass.
                    say(&format!("warning: a connection was not accepted: {error}"));
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let connection = connections.watch(connection(stream, router.clone(), options.client_timeout));
            tokio::spawn(async move {
                // An error is the client's: it left, or did not speak HTTP.
                let _ = connection.await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accept => return,
        () = finish(app, interrupt) => {}
    }
    drop(listener);
    let _ = timeout(LAST_WORDS, connections.shutdown()).await;
}

/// Waits for a signal, then for the texts that are running, for at most [`GRACE`].
async fn finish(app: &App, interrupt: &Interrupt) {
    while interrupt.signal().is_none() {
        sleep(TICK).await;
    }
    app.stop();
    if app.num_texts() > 0 {
        say(&format!("stopping: {} texts are finished first, for at most {} s", app.num_texts(), GRACE.as_secs()));
    }
    let deadline = Instant::now() + GRACE;
    while app.num_texts() > 0 && Instant::now() < deadline {
        sleep(TICK).await;
    }
    app.cut_off().store(true, Ordering::Relaxed);
}

type Connection = http1::Connection<TokioIo<std::pin::Pin<Box<TimeoutStream<TcpStream>>>>, TowerToHyperService<Router>>;

/// Speaks HTTP/1.1 with a client that may take `client_timeout` for the head of a request, and as long to read some of what
/// was sent to it.
fn connection(stream: TcpStream, router: Router, client_timeout: Duration) -> Connection {
    // Tokens are small, and each is worth a packet.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(client_timeout));
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(client_timeout).max_buf_size(64 << 10);
    http.serve_connection(TokioIo::new(Box::pin(stream)), TowerToHyperService::new(router))
}

//! Binds an address of the settings.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

/// An address of the settings cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {}", listen_fault(.error))]
pub struct ListenError {
    /// Such as `ops.listen`.
    pub setting: &'static str,
    pub address: SocketAddr,
    pub error: io::Error,
}

fn listen_fault(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "another program listens there: stop it, or choose another port".into(),
        io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address: choose one of its own, or 0.0.0.0 for all of them".into()
        }
        io::ErrorKind::PermissionDenied => {
            "the system does not allow it: choose a port of at least 1024".into()
        }
        _ => error.to_string(),
    }
}

/// Binds an address for a runtime to serve on. Also returns the bound address, whose port is known.
///
/// # Errors
/// If it is taken, or not allowed. `setting`: its key.
pub fn bind(setting: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ListenError> {
    let bind = || {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let bound = listener.local_addr()?;
        Ok((listener, bound))
    };
    bind().map_err(|error| ListenError { setting, address, error })
}

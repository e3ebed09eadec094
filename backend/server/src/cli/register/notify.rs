//! What is told to a service manager that asked for it: `sd_notify(3)`, over the socket that it names.
//!
//! Owns: that socket. Must not know: when what is said. Telling is never in the way: that it fails is logged
//! once.

use std::{
    ffi::OsString,
    io,
    os::unix::net::UnixDatagram,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A service manager, or nobody; cheap to clone.
#[derive(Debug, Clone)]
pub struct Manager {
    socket: Option<Arc<OsString>>,
    /// Whether it was said already that it cannot be told.
    failed: Arc<AtomicBool>,
}

impl Manager {
    /// The one that listens at `socket`: a path, or an abstract name behind an `@`; nobody where there is none.
    pub fn at(socket: Option<OsString>) -> Self {
        Self { socket: socket.filter(|socket| !socket.is_empty()).map(Arc::new), failed: Arc::default() }
    }

    /// What was started runs.
    pub fn ready(&self) {
        self.tell("READY=1");
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=deregistering");
    }

    /// How it is, in one line for people.
    pub fn status(&self, status: &str) {
        self.tell(&format!("STATUS={}", status.replace('\n', " ")));
    }

    fn tell(&self, text: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, text.as_bytes())
            && !self.failed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, socket = %socket.display(), "the service manager cannot be told");
        }
    }
}

fn send(socket: &OsString, text: &[u8]) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    // A manager that does not read holds nothing up.
    sender.set_nonblocking(true)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::{
            linux::net::SocketAddrExt as _,
            unix::{ffi::OsStrExt as _, net::SocketAddr},
        };
        if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
            return sender.send_to_addr(text, &SocketAddr::from_abstract_name(name)?).map(drop);
        }
    }
    sender.send_to(text, socket).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_comes_as_the_manager_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let manager = Manager::at(Some(path.into_os_string()));
        manager.ready();
        manager.status("registered\nas a");
        manager.stopping();
        let mut buffer = [0; 256];
        let mut next = || {
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "READY=1");
        assert_eq!(next(), "STATUS=registered as a");
        assert!(next().starts_with("STOPPING=1\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_abstract_name_is_told_too() {
        use std::os::{linux::net::SocketAddrExt as _, unix::net::SocketAddr};
        let name = format!("rollcall-notify-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Manager::at(Some(format!("@{name}").into())).ready();
        let mut buffer = [0; 16];
        assert_eq!(socket.recv(&mut buffer).unwrap(), "READY=1".len());
    }
}

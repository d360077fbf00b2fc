//! Packet sockets: frames in and out of one link.
//!
//! Invariant: the only unsafe code of this crate; each socket is bound to one link and never blocks.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::io::unix::AsyncFd;

/// A socket for frames on one link.
pub(crate) struct Packets {
    socket: AsyncFd<OwnedFd>,
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn counted(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl Packets {
    /// Opens a socket on a link; frames sent may be of any type, only those of type `hears` are received.
    pub(crate) fn open(link: u32, hears: Option<u16>) -> io::Result<Self> {
        let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        // SAFETY: no pointers are passed. Protocol 0: nothing arrives before the socket is bound to its link.
        let descriptor = checked(unsafe { libc::socket(libc::AF_PACKET, flags, 0) })?;
        // SAFETY: the descriptor was just opened and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(descriptor) };
        // SAFETY: an address of all zeros is a valid value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = libc::AF_PACKET as libc::sa_family_t;
        address.sll_protocol = hears.unwrap_or(0).to_be();
        address.sll_ifindex = i32::try_from(link).map_err(io::Error::other)?;
        // SAFETY: the address lives through the call and its length is given.
        checked(unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        })?;
        // SAFETY: the descriptor is owned by what is registered, stays the same and is closed only with it.
        let socket = unsafe { AsyncFd::register(socket) }?;
        Ok(Self { socket })
    }

    /// Sends one frame as it is.
    pub(crate) async fn send(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            let mut ready = self.socket.writable().await?;
            let sent = ready.try_io(|socket| {
                // SAFETY: the buffer lives through the call and its length is given; the descriptor is open.
                counted(unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) })
            });
            if let Ok(sent) = sent {
                return sent.map(|_| ());
            }
        }
    }

    /// Receives one frame; what does not fit is cut off.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.socket.readable().await?;
            let received = ready.try_io(|socket| {
                // SAFETY: the buffer is ours alone during the call and its length is given; the descriptor is open.
                counted(unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
            });
            if let Ok(received) = received {
                return received;
            }
        }
    }
}

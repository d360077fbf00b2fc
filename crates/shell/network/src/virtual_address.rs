//! An address that one host at a time has, and that its kernel takes away when the host's Trireme no longer says it is there.
//!
//! Invariant: the address is on the link only with a lifetime of [`LIFETIME_S`] seconds, from the last time that this process
//! was alive and its holder wanted it. A process that was stopped for longer finds the address gone and does not take it
//! back on what it knew before. It will not decide who is to hold it.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, CacheInfo};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use trireme_routing::mesh::Mac;

use crate::frames;
use crate::links::{Links, failed, is};
use crate::mesh::TUNNEL;
use crate::sys::Packets;
use crate::{NetworkError, sysctl};

/// For how long the kernel keeps the address without hearing from us.
pub const LIFETIME_S: u32 = 2;
/// How often we say that we are there: a busy machine may miss a few without losing the address.
const RENEWAL: Duration = Duration::from_millis(500);
/// Announcements that follow at once, one a renewal; a lost frame must not cost a client its connection.
const ANNOUNCEMENTS: u32 = 3;
/// Renewals between further announcements: a former holder may have answered until its lifetime was over, and networks
/// that were apart come together.
const REMINDER_RENEWALS: u32 = 6;
/// After the address was lost to a pause: how long news may take that somebody else is to hold it by now.
const DOUBT: Duration = Duration::from_secs(3);
/// Pause after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);
/// How long an answer to a probe may take, and the time from one probe to the next.
const ANSWER: Duration = Duration::from_millis(200);
const PROBE: Duration = Duration::from_millis(400);
/// Probes without an answer before the first stand-in takes over; the next one waits as often again.
const SILENT_PROBES: u32 = 3;
const FRAME_BYTES: usize = 128;

/// An address that may be here or on another host.
#[derive(Clone, Debug)]
pub struct VirtualAddress {
    address: IpAddr,
    link: Option<String>,
}

/// What this host has to do for an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// Nothing; give it away at once.
    #[default]
    None,
    /// Have it.
    Hold,
    /// Have it while nobody else on the link does; 1 is the first to step in. IPv4 only: without ARP there is no asking.
    StandIn(u32),
}

/// Whether a renewal found the address in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// It was there and stays.
    Held,
    /// The kernel had taken it away, or this process was stopped for so long that it might have: it is not ours any more.
    Lost,
}

/// The address on this host. Dropping it leaves the address to its lifetime.
pub struct Holder {
    address: IpAddr,
    place: Place,
    links: Links,
    packets: Packets,
    renewed: Instant,
    renewals: u32,
}

/// Where the address belongs.
#[derive(Clone, Debug)]
struct Place {
    link: u32,
    name: String,
    mac: Mac,
}

impl VirtualAddress {
    /// An address on the link that is in its network.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        Self { address, link: None }
    }

    /// On this link instead.
    #[must_use]
    pub fn on_link(self, link: &str) -> Self {
        Self {
            link: Some(link.to_owned()),
            ..self
        }
    }

    /// Takes the address, in the caller's network namespace, and announces it.
    ///
    /// # Errors
    /// [`NetworkError::NoLink`] when no link is in its network, [`NetworkError::OwnAddress`] when the host has it anyway.
    pub async fn hold(&self) -> Result<Holder, NetworkError> {
        self.take(None).await
    }

    /// As [`VirtualAddress::hold`], with an ear for frames of a type.
    async fn take(&self, hears: Option<u16>) -> Result<Holder, NetworkError> {
        let links = Links::open()?;
        let place = self.place(&links).await?;
        let packets = Packets::open(place.link, hears).map_err(|source| NetworkError::kernel("packet socket", source))?;
        if self.address.is_ipv4() {
            // Only this link answers for the address, and nobody is asked for in its name.
            sysctl::set(&format!("ipv4/conf/{}/arp_ignore", place.name), "1")?;
            sysctl::set(&format!("ipv4/conf/{}/arp_announce", place.name), "2")?;
        }
        links.lease(place.link, self.address, LIFETIME_S).await?;
        let mut holder = Holder {
            address: self.address,
            place,
            links,
            packets,
            renewed: Instant::now(),
            renewals: 0,
        };
        holder.announce_if_due().await;
        Ok(holder)
    }

    async fn place(&self, links: &Links) -> Result<Place, NetworkError> {
        let networks = links.host_networks(&["trireme0", TUNNEL]).await?;
        if networks.iter().any(|it| it.address == self.address) {
            return Err(NetworkError::OwnAddress(self.address));
        }
        let link = match &self.link {
            Some(name) => links.require(name).await?,
            None => {
                let around = networks.iter().filter(|it| it.network().contains(self.address));
                let nearest = around.max_by_key(|it| it.prefix);
                nearest.ok_or(NetworkError::NoLink(self.address))?.link
            }
        };
        let (name, mac) = links.face(link).await?;
        Ok(Place { link, name, mac })
    }

    /// Holds the address while `wanted` says true, and gives it away at once when it says false or its sender is gone.
    /// After a pause of the process a value sent anew counts at once, one from before only after a while of doubt.
    pub async fn run(self, mut wanted: watch::Receiver<bool>) {
        let (say, duty) = watch::channel(Duty::None);
        let follow = async move {
            loop {
                let now = *wanted.borrow_and_update();
                say.send_replace(if now { Duty::Hold } else { Duty::None });
                if wanted.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(follow, self.serve(duty));
    }

    /// As [`VirtualAddress::run`], with stand-ins.
    pub async fn serve(self, mut duty: watch::Receiver<Duty>) {
        let mut told = None;
        loop {
            let now = *duty.borrow_and_update();
            let is_open = match now {
                Duty::None => duty.changed().await.is_ok(),
                Duty::Hold => self.attempt(&mut duty, None, &mut told).await,
                Duty::StandIn(rank) => match self.address {
                    IpAddr::V4(address) => self.stand_in(&mut duty, address, rank, &mut told).await,
                    IpAddr::V6(_) => duty.changed().await.is_ok(),
                },
            };
            if !is_open {
                return;
            }
        }
    }

    /// Holds until the duty changes, or somebody else turns out to hold it (if `rival` is to be looked for). False: nobody
    /// says any more what to do.
    async fn attempt(&self, duty: &mut watch::Receiver<Duty>, rival: Option<Ipv4Addr>, told: &mut Option<String>) -> bool {
        let mut holder = match self.take(rival.map(|_| frames::ARP)).await {
            Ok(holder) => holder,
            Err(error) => {
                self.tell(told, &error);
                return !matches!(timeout(RETRY, duty.changed()).await, Ok(Err(_)));
            }
        };
        *told = None;
        tracing::info!(address = %self.address, link = holder.place.name, "this host has the address");
        let (is_open, why) = holder.keep(duty, rival).await;
        tracing::info!(address = %self.address, why, "this host gives the address away");
        if let Err(error) = holder.release().await {
            tracing::warn!(address = %self.address, "the address stays until its lifetime is over: {error}");
        }
        is_open
    }

    fn tell(&self, told: &mut Option<String>, error: &NetworkError) {
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            tracing::warn!(address = %self.address, "the address cannot be had here, trying again: {text}");
            *told = Some(text);
        }
    }

    /// Asks around until nobody answers, then holds.
    async fn stand_in(&self, duty: &mut watch::Receiver<Duty>, address: Ipv4Addr, rank: u32, told: &mut Option<String>) -> bool {
        let ready = async {
            let links = Links::open()?;
            let place = self.place(&links).await?;
            let packets = Packets::open(place.link, Some(frames::ARP));
            Ok((
                packets.map_err(|source| NetworkError::kernel("packet socket", source))?,
                place.mac,
            ))
        };
        let (packets, mac) = match ready.await {
            Ok(ready) => ready,
            Err(error) => {
                self.tell(told, &error);
                return !matches!(timeout(RETRY, duty.changed()).await, Ok(Err(_)));
            }
        };
        let mut silent = 0;
        while silent < SILENT_PROBES.saturating_mul(rank.max(1)) {
            let next = Instant::now() + PROBE;
            match is_held_elsewhere(&packets, address, mac).await {
                Ok(true) => silent = 0,
                Ok(false) => silent += 1,
                Err(error) => {
                    self.tell(told, &NetworkError::kernel("probe", error));
                    silent = 0;
                }
            }
            if let Ok(changed) = timeout_at(next, duty.changed()).await {
                return changed.is_ok();
            }
        }
        self.attempt(duty, Some(address), told).await
    }
}

/// One probe: whether another host says that it has the address.
async fn is_held_elsewhere(packets: &Packets, address: Ipv4Addr, own: Mac) -> std::io::Result<bool> {
    packets.send(&frames::probe(address, own)).await?;
    let end = Instant::now() + ANSWER;
    let mut buffer = [0; FRAME_BYTES];
    while let Ok(received) = timeout_at(end, packets.receive(&mut buffer)).await {
        let length = received?;
        if frames::claims(&buffer[..length], address).is_some_and(|mac| mac != own) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Holder {
    /// The address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Name of the link that it is on.
    #[must_use]
    pub fn link(&self) -> &str {
        &self.place.name
    }

    /// Says that the holder is there: the address stays for another [`LIFETIME_S`] seconds. Call it twice a second.
    ///
    /// # Errors
    /// When the kernel refuses; the address then goes by itself.
    pub async fn renew(&mut self) -> Result<Renewal, NetworkError> {
        let lifetime = Duration::from_secs(LIFETIME_S.into());
        if self.renewed.elapsed() >= lifetime {
            self.links.unlease(self.place.link, self.address).await?;
            return Ok(Renewal::Lost);
        }
        if !self.links.has(self.place.link, self.address).await? {
            return Ok(Renewal::Lost);
        }
        self.links.lease(self.place.link, self.address, LIFETIME_S).await?;
        if self.renewed.elapsed() >= lifetime {
            // Stopped between the look and the renewal, which may have made the address anew.
            self.links.unlease(self.place.link, self.address).await?;
            return Ok(Renewal::Lost);
        }
        self.renewed = Instant::now();
        self.renewals = self.renewals.wrapping_add(1);
        self.announce_if_due().await;
        Ok(Renewal::Held)
    }

    /// Takes the address off this host at once.
    ///
    /// # Errors
    /// When the kernel refuses; the address then goes by itself.
    pub async fn release(self) -> Result<(), NetworkError> {
        self.links.unlease(self.place.link, self.address).await
    }

    async fn announce_if_due(&mut self) {
        if self.renewals >= ANNOUNCEMENTS && !self.renewals.is_multiple_of(REMINDER_RENEWALS) {
            return;
        }
        for frame in frames::announcements(self.address, self.place.mac) {
            if let Err(error) = self.packets.send(&frame).await {
                tracing::debug!(address = %self.address, "an announcement was not sent: {error}");
            }
        }
    }

    /// Renews until there is a reason to end; whether the duty's sender is still there, and the reason.
    async fn keep(&mut self, duty: &mut watch::Receiver<Duty>, rival: Option<Ipv4Addr>) -> (bool, &'static str) {
        let begun = *duty.borrow();
        let mut next = Instant::now();
        loop {
            next = (next + RENEWAL).max(Instant::now());
            if let Ok(changed) = timeout_at(next, duty.changed()).await {
                if changed.is_err() {
                    return (false, "nobody wants it any more");
                }
                if *duty.borrow_and_update() != begun {
                    return (true, "its place is elsewhere");
                }
            }
            match self.renew().await {
                Ok(Renewal::Held) => {}
                Ok(Renewal::Lost) => {
                    // What was wanted before the pause may not hold any more. A value sent from now on does.
                    duty.mark_unchanged();
                    let is_open = !matches!(timeout(DOUBT, duty.changed()).await, Ok(Err(_)));
                    return (is_open, "this process was stopped for too long");
                }
                Err(error) => {
                    tracing::warn!(address = %self.address, "renewing the address: {error}");
                    sleep(RETRY / 4).await;
                }
            }
            if let Some(address) = rival
                && matches!(is_held_elsewhere(&self.packets, address, self.place.mac).await, Ok(true))
            {
                return (true, "the host that it belongs to is back");
            }
        }
    }
}

impl Links {
    /// Puts an address on a link for so many seconds, or makes it stay for so many more.
    async fn lease(&self, link: u32, address: IpAddr, valid_s: u32) -> Result<(), NetworkError> {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(link, address, prefix).replace();
        let message = request.message_mut();
        // Nothing that this host begins is to come from it, as it may be gone before the answer.
        let mut lifetimes = CacheInfo::default();
        lifetimes.ifa_preferred = 0;
        lifetimes.ifa_valid = valid_s;
        message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        if address.is_ipv6() {
            // Asking first whether somebody has it takes a second, and the former holder may well have it still.
            let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(flags));
        }
        request.execute().await.map_err(failed(format!("hold address {address}")))
    }

    /// Takes it off; an absent one is done.
    async fn unlease(&self, link: u32, address: IpAddr) -> Result<(), NetworkError> {
        for message in self.on(link, address).await? {
            match self.handle.address().del(message).execute().await {
                Err(error) if is(&error, libc::EADDRNOTAVAIL) => {}
                other => other.map_err(failed(format!("release address {address}")))?,
            }
        }
        Ok(())
    }

    async fn has(&self, link: u32, address: IpAddr) -> Result<bool, NetworkError> {
        Ok(!self.on(link, address).await?.is_empty())
    }

    async fn on(&self, link: u32, address: IpAddr) -> Result<Vec<AddressMessage>, NetworkError> {
        let all = self.handle.address().get().set_link_index_filter(link).execute();
        let all: Vec<AddressMessage> = all.try_collect().await.map_err(failed("list addresses"))?;
        let is_it = |message: &AddressMessage| {
            message.header.index == link
                && message.attributes.iter().any(|it| match it {
                    AddressAttribute::Local(it) | AddressAttribute::Address(it) => *it == address,
                    _ => false,
                })
        };
        Ok(all.into_iter().filter(is_it).collect())
    }
}

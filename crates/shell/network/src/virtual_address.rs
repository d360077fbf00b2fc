//! An address that one host at a time has, and that its kernel takes away when the host's Trireme no longer says it is there.
//!
//! Invariant: the address is on the link only with a lifetime of [`LIFETIME_S`] seconds, from the last time that this process
//! was alive and its holder wanted it. A process that was stopped for longer finds the address gone and does not take it
//! back on what it knew before. It will not decide who is to hold it.

use std::io;
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
const ANSWER: Duration = Duration::from_millis(150);
const PROBE: Duration = Duration::from_millis(250);
/// Probes without an answer before the first stand-in takes over; the next one waits as often again.
const SILENT_PROBES: u32 = 4;
/// Someone who claims the address for longer than this is no stand-in, which asks every renewal whether it is still needed.
const STAND_IN_LEAVES: Duration = Duration::from_millis(900);
const FRAME_BYTES: usize = 128;
const FRAMES_MAX: usize = 4096;

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
    /// Have it, whoever else says so: others know that it is to be here.
    Hold,
    /// Be one of several who see to it that one has it. 0 takes it at once and leaves it to whoever took it later (who
    /// knows more); 1 and more take it while nobody on the link answers for it, one after the other. Asking is by ARP:
    /// an IPv6 address is had by 0 and nobody else.
    Candidate(u32),
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
    /// Since when somebody else claims the address as well.
    contested: Option<Instant>,
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
            contested: None,
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

    /// As [`VirtualAddress::run`], with several hosts that see to it among themselves.
    pub async fn serve(self, mut duty: watch::Receiver<Duty>) {
        let mut told = None;
        // Somebody else may have it: ask before taking it.
        let mut in_doubt = false;
        loop {
            let now = *duty.borrow_and_update();
            let ended = match (now, self.address) {
                (Duty::None, _) => {
                    in_doubt = false;
                    closed_unless(duty.changed().await.is_ok())
                }
                (Duty::Hold, _) | (Duty::Candidate(0), IpAddr::V6(_)) => self.attempt(&mut duty, None, &mut told).await,
                (Duty::Candidate(_), IpAddr::V6(_)) => closed_unless(duty.changed().await.is_ok()),
                (Duty::Candidate(rank), IpAddr::V4(address)) => {
                    let waits = if in_doubt { rank.max(1) } else { rank };
                    self.candidate(&mut duty, address, waits, &mut told).await
                }
            };
            match ended {
                Ended::Closed => return,
                Ended::Rival | Ended::Lost => in_doubt = true,
                Ended::Told | Ended::Failed => {}
            }
        }
    }

    /// Holds until there is a reason not to.
    async fn attempt(&self, duty: &mut watch::Receiver<Duty>, rivals: Option<Ipv4Addr>, told: &mut Option<String>) -> Ended {
        let mut holder = match self.take(rivals.map(|_| frames::ARP)).await {
            Ok(holder) => holder,
            Err(error) => return self.failed(duty, &error, told).await,
        };
        *told = None;
        tracing::info!(address = %self.address, link = holder.place.name, "this host has the address");
        let ended = holder.keep(duty, rivals).await;
        tracing::info!(address = %self.address, why = ended.why(), "this host gives the address away");
        if let Err(error) = holder.release().await {
            tracing::warn!(address = %self.address, "the address stays until its lifetime is over: {error}");
        }
        if ended == Ended::Lost && rivals.is_none() {
            // What was wanted before the pause may not hold any more. A value sent from now on does.
            duty.mark_unchanged();
            if let Ok(Err(_)) = timeout(DOUBT, duty.changed()).await {
                return Ended::Closed;
            }
        }
        ended
    }

    /// Tells a failure once, and waits a little.
    async fn failed(&self, duty: &mut watch::Receiver<Duty>, error: &NetworkError, told: &mut Option<String>) -> Ended {
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            tracing::warn!(address = %self.address, "the address cannot be had here, trying again: {text}");
            *told = Some(text);
        }
        match timeout(RETRY, duty.changed()).await {
            Ok(Err(_)) => Ended::Closed,
            Ok(Ok(())) | Err(_) => Ended::Failed,
        }
    }

    /// Asks around until nobody answers, then holds.
    async fn candidate(
        &self,
        duty: &mut watch::Receiver<Duty>,
        address: Ipv4Addr,
        waits: u32,
        told: &mut Option<String>,
    ) -> Ended {
        let (packets, mac) = match self.ear().await {
            Ok(ready) => ready,
            Err(error) => return self.failed(duty, &error, told).await,
        };
        // Two who gave it up for each other must not ask in step for ever.
        let needed = SILENT_PROBES.saturating_mul(waits) + if waits > 0 { u32::from(mac[5] % 3) } else { 0 };
        let mut silent = 0;
        while silent < needed {
            let next = Instant::now() + PROBE;
            match is_held_elsewhere(&packets, address, mac).await {
                Ok(true) => silent = 0,
                Ok(false) => silent += 1,
                Err(source) => return self.failed(duty, &NetworkError::kernel("probe", source), told).await,
            }
            if let Ok(changed) = timeout_at(next, duty.changed()).await {
                return closed_unless(changed.is_ok());
            }
        }
        drop(packets);
        self.attempt(duty, Some(address), told).await
    }

    /// A socket that hears ARP on the address's link, and that link's hardware address.
    async fn ear(&self) -> Result<(Packets, Mac), NetworkError> {
        let place = self.place(&Links::open()?).await?;
        let packets = Packets::open(place.link, Some(frames::ARP));
        let packets = packets.map_err(|source| NetworkError::kernel("packet socket", source))?;
        Ok((packets, place.mac))
    }
}

/// Why a duty was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// Nobody says any more what to do.
    Closed,
    /// There is another duty.
    Told,
    /// The kernel refused.
    Failed,
    /// Another host has the address.
    Rival,
    /// This process was stopped for longer than the lifetime.
    Lost,
}

impl Ended {
    fn why(self) -> &'static str {
        match self {
            Self::Closed => "nobody wants it any more",
            Self::Told => "its place is elsewhere",
            Self::Failed => "the kernel refused",
            Self::Rival => "another host has taken it",
            Self::Lost => "this process was stopped for too long",
        }
    }
}

fn closed_unless(is_open: bool) -> Ended {
    if is_open { Ended::Told } else { Ended::Closed }
}

/// One probe: whether another host says that it has the address.
async fn is_held_elsewhere(packets: &Packets, address: Ipv4Addr, own: Mac) -> io::Result<bool> {
    packets.send(&frames::probe(address, own)).await?;
    hears_claim(packets, address, own, ANSWER).await
}

/// Whether another host says that it has the address, among the frames that came and come until the patience ends.
async fn hears_claim(packets: &Packets, address: Ipv4Addr, own: Mac, patience: Duration) -> io::Result<bool> {
    let end = Instant::now() + patience;
    let mut buffer = [0; FRAME_BYTES];
    // A socket that is ready is read before the clock is looked at, but not for ever.
    for _ in 0..FRAMES_MAX {
        let Ok(received) = timeout_at(end, packets.receive(&mut buffer)).await else {
            return Ok(false);
        };
        if frames::claims(&buffer[..received?], address).is_some_and(|mac| mac != own) {
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

    /// Renews until there is a reason to end.
    async fn keep(&mut self, duty: &mut watch::Receiver<Duty>, rivals: Option<Ipv4Addr>) -> Ended {
        let begun = Instant::now();
        let mut next = begun;
        loop {
            next = (next + RENEWAL).max(Instant::now());
            if let Ok(changed) = timeout_at(next, duty.changed()).await {
                if changed.is_err() {
                    return Ended::Closed;
                }
                let stays = match *duty.borrow_and_update() {
                    Duty::None => false,
                    Duty::Hold => rivals.is_none(),
                    Duty::Candidate(_) => rivals.is_some(),
                };
                if !stays {
                    return Ended::Told;
                }
            }
            match self.renew().await {
                Ok(Renewal::Held) => {}
                Ok(Renewal::Lost) => return Ended::Lost,
                Err(error) => {
                    tracing::warn!(address = %self.address, "renewing the address: {error}");
                    sleep(RETRY / 4).await;
                }
            }
            if let Some(address) = rivals {
                let rank = match *duty.borrow() {
                    Duty::Candidate(rank) => rank,
                    Duty::None | Duty::Hold => 0,
                };
                match self.has_rival(address, rank, begun).await {
                    Ok(true) => return Ended::Rival,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(address = %self.address, "listening for others: {error}"),
                }
            }
        }
    }

    /// Whether to leave the address to somebody else. Who stands in asks; who is first only listens, and not while the
    /// former holder's claims may still be under way. Once it heard a claim it asks too: a stand-in that could not hear
    /// it before leaves by itself, and is not made way for.
    async fn has_rival(&mut self, address: Ipv4Addr, rank: u32, begun: Instant) -> io::Result<bool> {
        if rank > 0 {
            return is_held_elsewhere(&self.packets, address, self.place.mac).await;
        }
        let claimed = match self.contested {
            None => hears_claim(&self.packets, address, self.place.mac, Duration::from_millis(1)).await?,
            Some(_) => is_held_elsewhere(&self.packets, address, self.place.mac).await?,
        };
        if begun.elapsed() < DOUBT {
            return Ok(false);
        }
        match (claimed, self.contested) {
            (true, Some(since)) => Ok(since.elapsed() >= STAND_IN_LEAVES),
            (true, None) => {
                self.contested = Some(Instant::now());
                Ok(false)
            }
            (false, contested) => {
                if contested.is_some() {
                    // Others may have learnt that it was there.
                    self.contested = None;
                    self.renewals = 0;
                    self.announce_if_due().await;
                }
                Ok(false)
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

//! Triton's system shared memory: clients on this host leave tensors in POSIX shared memory and name them.
//!
//! Nothing is mapped: a region is a file that is read and written with bounds, so a client that shrinks it gets an
//! error where a mapping would end the process with SIGBUS. Off unless `--shared-memory`, and then for clients that
//! come over loopback alone: whoever may name a region may read it through a model.

pub mod documents;
mod region;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use metrics::Gauge;
use smallvec::SmallVec;

use self::region::Region;
use super::oip::{Answered, Place, SharedMemory};
use super::state::{Reservation, ServerState};
use crate::error::{ErrorKind, InferError, shorten};

/// Regions registered at once. Each holds a file descriptor open; a client registers one or two.
pub const MAX_REGIONS: usize = 256;
/// Bytes of a region's name.
const MAX_NAME_BYTES: usize = 255;

/// The address that a request came from; an extension of its head, there where shared memory is on.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// The registered regions.
#[derive(Debug)]
pub struct Regions {
    on: bool,
    table: RwLock<BTreeMap<String, Arc<Region>>>,
    gauge: Gauge,
}

/// What `status` says of a region.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct RegionStatus {
    /// Its name.
    pub name: String,
    /// The name of the shared memory object.
    pub key: String,
    /// Where in the object it begins, bytes.
    pub offset: u64,
    /// Its size, bytes.
    pub byte_size: u64,
}

impl Regions {
    /// None are registered; none can be, unless `on`.
    #[must_use]
    pub fn new(on: bool, gauge: Gauge) -> Self {
        Self { on, table: RwLock::default(), gauge }
    }

    /// Whether `--shared-memory` was given.
    #[must_use]
    pub fn on(&self) -> bool {
        self.on
    }

    /// Lets in who may use shared memory.
    ///
    /// # Errors
    /// `Unimplemented` where it is off, `InvalidArgument` for a client of another host.
    pub fn admit(&self, peer: Option<Peer>) -> Result<&Self, InferError> {
        if !self.on {
            let text = "shared memory is off here; send tensors in the request, or start the server with --shared-memory";
            return Err(InferError::new(ErrorKind::Unimplemented, text));
        }
        let Some(Peer(address)) = peer else {
            return Err(InferError::new(ErrorKind::Internal, "nobody knows where the request came from"));
        };
        if address.to_canonical().is_loopback() {
            return Ok(self);
        }
        let text = format!(
            "shared memory is for clients that connect over loopback, this one came from {address}; send tensors in \
             the request"
        );
        Err(InferError::new(ErrorKind::InvalidArgument, text))
    }

    /// Registers `byte_size` bytes from `offset` of the shared memory object `key`; blocking, for a moment.
    ///
    /// # Errors
    /// `InvalidArgument`: a name that is taken or none, too many regions, a key that is no shared memory object or
    /// cannot be opened, a size beyond its end.
    pub fn register(&self, name: &str, key: &str, offset: u64, byte_size: u64) -> Result<(), InferError> {
        named(name)?;
        let region = Region::open(key, offset, byte_size)?;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let refuse = |text: String| Err(InferError::new(ErrorKind::InvalidArgument, text));
        if table.contains_key(name) {
            return refuse(format!("region `{name}` is registered already; unregister it first"));
        }
        if table.len() >= MAX_REGIONS {
            return refuse(format!(
                "{MAX_REGIONS} regions are registered, which is the limit; unregister some first"
            ));
        }
        table.insert(name.to_owned(), Arc::new(region));
        self.gauge.set(table.len() as f64);
        Ok(())
    }

    /// Forgets a region, or all of them; one that is not there is no error. Requests that use it finish with it.
    pub fn unregister(&self, name: Option<&str>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        match name {
            Some(name) => drop(table.remove(name)),
            None => table.clear(),
        }
        self.gauge.set(table.len() as f64);
    }

    /// What is registered, by name.
    ///
    /// # Errors
    /// `UnknownRegion` for a name that is not.
    pub fn status(&self, name: Option<&str>) -> Result<Vec<RegionStatus>, InferError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let status = |(name, region): (&String, &Arc<Region>)| RegionStatus {
            name: name.clone(),
            key: region.key.clone(),
            offset: region.offset,
            byte_size: region.byte_size,
        };
        match name {
            None => Ok(table.iter().map(status).collect()),
            Some(name) => {
                let found = table.get_key_value(name).ok_or_else(|| unknown(name))?;
                Ok(vec![status(found)])
            }
        }
    }

    fn find(&self, name: &str) -> Result<Arc<Region>, InferError> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        table.get(name).cloned().ok_or_else(|| unknown(name))
    }
}

fn unknown(name: &str) -> InferError {
    let text = format!("shared memory region `{}` is not registered", shorten(name));
    InferError::new(ErrorKind::UnknownRegion, text)
}

fn named(name: &str) -> Result<(), InferError> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_-.:".contains(&b);
    if (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(good) {
        return Ok(());
    }
    let text = format!(
        "region `{}`: a name has 1 to {MAX_NAME_BYTES} letters, digits, and _ - . :",
        shorten(name).escape_debug()
    );
    Err(InferError::new(ErrorKind::InvalidArgument, text))
}

/// The shared memory of one request: the regions that it names, and what was read of them.
pub struct Tensors<'a> {
    state: &'a ServerState,
    peer: Option<Peer>,
    /// Regions that were named: unregistering one does not take it from a request that goes on.
    held: SmallVec<[(String, Arc<Region>); 2]>,
    /// Where outputs will lie.
    outputs: SmallVec<[Place; 2]>,
    reservation: Option<Reservation>,
}

impl<'a> Tensors<'a> {
    /// Nothing is looked up before it is named.
    #[must_use]
    pub fn new(state: &'a ServerState, peer: Option<Peer>) -> Self {
        Self { state, peer, held: SmallVec::new(), outputs: SmallVec::new(), reservation: None }
    }

    /// Puts the outputs that have a place there, and takes their data out of the answer.
    ///
    /// # Errors
    /// `InvalidArgument` for one that is larger than its place, or a region that has shrunk.
    pub fn store(&self, outputs: &mut [Answered<'_>]) -> Result<(), InferError> {
        for output in outputs {
            let Some(place) = &mut output.place else { continue };
            let context = |e: InferError| e.context(format_args!("output `{}`", output.name));
            let region = self.held.iter().find(|(name, _)| *name == place.region).map(|(_, region)| region);
            let region = region.ok_or_else(|| context(unknown(&place.region)))?;
            let size = output.data.len() as u64;
            if size > place.byte_size {
                let text = format!(
                    "it takes {size} bytes, parameter `shared_memory_byte_size` is {}",
                    place.byte_size
                );
                return Err(context(InferError::new(ErrorKind::InvalidArgument, text)));
            }
            region.write(place, &output.data).map_err(context)?;
            place.byte_size = size;
            output.data = Bytes::new();
        }
        Ok(())
    }

    fn region(&mut self, name: &str) -> Result<Arc<Region>, InferError> {
        if let Some((_, region)) = self.held.iter().find(|(held, _)| held == name) {
            return Ok(Arc::clone(region));
        }
        let region = self.state.shared_memory.admit(self.peer)?.find(name)?;
        self.held.push((name.to_owned(), Arc::clone(&region)));
        Ok(region)
    }
}

impl SharedMemory for Tensors<'_> {
    fn read(&mut self, place: &Place) -> Result<Bytes, InferError> {
        let region = self.region(&place.region)?;
        let size = region.within(place)?;
        let limit = self.state.limits.max_body_bytes;
        if size > limit {
            let text =
                format!("parameter `shared_memory_byte_size` is {size}, over --max-body-bytes {limit}");
            return Err(InferError::new(ErrorKind::BodyTooLarge, text));
        }
        match &mut self.reservation {
            Some(reservation) => reservation.grow(size)?,
            none => *none = Some(self.state.budget.reserve(size)?),
        }
        region.read(place, size)
    }

    fn check(&mut self, place: &Place) -> Result<(), InferError> {
        self.region(&place.region)?.within(place)?;
        let end = |p: &Place| p.offset.saturating_add(p.byte_size);
        let overlaps = |other: &&Place| {
            other.region == place.region && other.offset < end(place) && place.offset < end(other)
        };
        if let Some(other) = self.outputs.iter().find(overlaps) {
            let text = format!(
                "bytes {}..{} of region `{}` are another output's, which has {}..{}",
                place.offset,
                end(place),
                shorten(&place.region),
                other.offset,
                end(other)
            );
            return Err(InferError::new(ErrorKind::InvalidArgument, text));
        }
        self.outputs.push(place.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_of_this_host_are_let_in() {
        let cases = [
            (true, Some("127.0.0.1"), None),
            (true, Some("127.8.9.10"), None),
            (true, Some("::1"), None),
            (true, Some("::ffff:127.0.0.1"), None),
            (true, Some("10.0.0.1"), Some(ErrorKind::InvalidArgument)),
            (true, Some("0.0.0.0"), Some(ErrorKind::InvalidArgument)),
            (true, Some("::ffff:10.0.0.1"), Some(ErrorKind::InvalidArgument)),
            (true, Some("fe80::1"), Some(ErrorKind::InvalidArgument)),
            (true, None, Some(ErrorKind::Internal)),
            (false, Some("127.0.0.1"), Some(ErrorKind::Unimplemented)),
        ];
        for (on, peer, want) in cases {
            let regions = Regions::new(on, Gauge::noop());
            let got = regions.admit(peer.map(|p| Peer(p.parse().unwrap()))).err().map(|e| e.kind);
            assert_eq!(got, want, "{on} {peer:?}");
        }
    }
}

//! Volumes of pods: upstream's plugins VolumeRestrictions, NodeVolumeLimits, VolumeBinding and VolumeZone.
//!
//! Invariant: a pod without claims and disks costs one look at two empty lists. What a decision gives to a pod is assumed in
//! [`Storage`] until the API shows another version of it, so no volume is given twice.

mod demand;
mod limits;
mod records;
mod storage;

pub use demand::{Binding, VolumePlan};
pub use records::{AttachmentRecord, CapacityRecord, ClaimRecord, ClassRecord, Limits, VolumeRecord};
pub use storage::{Storage, Unbound, Written};

pub(crate) use demand::Demand;

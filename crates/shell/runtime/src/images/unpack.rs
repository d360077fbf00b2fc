//! Unpacks a layer archive into a directory that overlayfs takes as a lower layer.
//!
//! Invariant: nothing is made outside the directory, whatever the archive says. Every parent is opened with
//! `RESOLVE_IN_ROOT`, so symlinks and `..` of the archive end at the directory; last components are never followed.
//! The archive's whiteouts become overlayfs's.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, utimensat};
use nix::sys::time::TimeSpec;
use sha2::{Digest, Sha256};
use tar::EntryType;

use crate::sys;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Sticky, set-user-id, set-group-id and permission bits.
const MODE_BITS: u32 = 0o7777;

/// What was unpacked.
pub(crate) struct Unpacked {
    /// Digest of the uncompressed archive, `sha256:…`.
    pub(crate) diff_id: String,
    /// Bytes of file content.
    pub(crate) bytes: u64,
}

/// Reads through and computes the digest of what was read.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    /// Begins.
    pub(crate) fn new(inner: R) -> Self {
        Hashing {
            inner,
            hash: Sha256::new(),
        }
    }

    /// Reads the rest; the digest of everything.
    pub(crate) fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(format!("sha256:{}", hex::encode(self.hash.finalize())))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// Decompresses gzip and zstd by their first bytes; anything else passes as it is.
pub(crate) fn decompress<'a>(reader: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut reader = BufReader::with_capacity(64 << 10, reader);
    let head = reader.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(reader))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        Box::new(zstd::Decoder::with_buffer(reader)?)
    } else {
        Box::new(reader)
    })
}

/// Unpacks a layer, compressed or not, into the existing directory `root`. A directory that the archive only implies looks
/// as it does in the nearest of the layers below, `lower` (lowest first), which it would otherwise cover with a mode and an
/// owner that nobody chose. A layer that images with different layers below share keeps what the first of them gave it.
pub(crate) fn layer(reader: impl Read, root: &Path, lower: &[PathBuf]) -> io::Result<Unpacked> {
    let mut hashing = Hashing::new(decompress(reader)?);
    let mut unpacker = Unpacker {
        root: directory(root)?,
        bytes: 0,
        times: Vec::new(),
        implied: BTreeSet::new(),
        whiteouts: true,
    };
    unpacker.run(&mut hashing)?;
    unpacker.adopt(lower)?;
    Ok(Unpacked {
        bytes: unpacker.bytes,
        diff_id: hashing.finish()?,
    })
}

/// Unpacks any archive, without a meaning of whiteouts.
pub(crate) fn plain(reader: impl Read, root: &Path) -> io::Result<()> {
    let mut unpacker = Unpacker {
        root: directory(root)?,
        bytes: 0,
        times: Vec::new(),
        implied: BTreeSet::new(),
        whiteouts: false,
    };
    unpacker.run(&mut decompress(reader)?)
}

fn directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(File::options().read(true).custom_flags(libc::O_DIRECTORY).open(path)?.into())
}

/// A directory of another layer, by names only.
fn open_below(layer: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(layer, path, how)
}

struct Unpacker {
    root: OwnedFd,
    bytes: u64,
    /// Directories get their times last, when nothing more is made in them.
    times: Vec<(PathBuf, i64)>,
    /// Directories that no entry described yet.
    implied: BTreeSet<PathBuf>,
    whiteouts: bool,
}

/// A place in the tree: an open parent and a name in it.
struct Place {
    parent: OwnedFd,
    name: PathBuf,
}

impl Place {
    /// A path for calls that take none but paths. It holds while `self` lives.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(&self.name)
    }
}

/// Normal components only; `None` for the root itself.
fn clean(path: &Path) -> io::Result<Option<PathBuf>> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("{} leaves the layer", path.display()),
                ));
            }
        }
    }
    Ok((!clean.as_os_str().is_empty()).then_some(clean))
}

impl Unpacker {
    fn run(&mut self, reader: &mut impl Read) -> io::Result<()> {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            self.entry(&mut entry?)?;
        }
        for (path, seconds) in std::mem::take(&mut self.times) {
            let place = self.place(&path)?;
            set_time(&place, seconds)?;
        }
        Ok(())
    }

    /// Opens a directory below the root as if the root were `/`.
    fn open(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.root.as_fd(), path, how)
    }

    /// The parent of a clean path, made where it is missing.
    fn place(&mut self, path: &Path) -> io::Result<Place> {
        let name = PathBuf::from(path.file_name().ok_or(io::ErrorKind::InvalidData)?);
        let parent = path.parent().unwrap_or(Path::new(""));
        if parent.as_os_str().is_empty() {
            return Ok(Place {
                parent: self.root.try_clone()?,
                name,
            });
        }
        let parent = match self.open(parent) {
            Ok(parent) => parent,
            Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => {
                let place = self.place(parent)?;
                make_directory(&place, 0o755)?;
                self.implied.insert(parent.to_owned());
                self.open(parent)?
            }
            Err(error) => return Err(error.into()),
        };
        Ok(Place { parent, name })
    }

    fn entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let kind = entry.header().entry_type();
        let Some(path) = clean(&entry.path()?)? else {
            return self.root_entry(entry);
        };
        let place = self.place(&path)?;
        let name = place.name.as_os_str().as_bytes();
        if self.whiteouts && name == OPAQUE {
            // The directory itself is opaque; its path through our descriptor would be a magic link, hence the `.`.
            let own = PathBuf::from(format!("/proc/self/fd/{}/.", place.parent.as_raw_fd()));
            return sys::set_xattr(&own, "trusted.overlay.opaque", b"y");
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT).filter(|_| self.whiteouts) {
            let place = Place {
                name: PathBuf::from(std::ffi::OsStr::from_bytes(hidden)),
                parent: place.parent,
            };
            if hidden.is_empty() || hidden == b"." || hidden == b".." || hidden.starts_with(WHITEOUT) {
                return Ok(());
            }
            clear(&place)?;
            return Ok(mknod(&place.path(), SFlag::S_IFCHR, Mode::empty(), 0)?);
        }
        let header = entry.header();
        let mode = header.mode()? & MODE_BITS;
        // Blank numbers are zeros to other tools too.
        let (user, group) = (header.uid().unwrap_or(0) as u32, header.gid().unwrap_or(0) as u32);
        let seconds = i64::try_from(header.mtime().unwrap_or(0)).unwrap_or(0);
        let device = || {
            io::Result::Ok(makedev(
                u64::from(header.device_major()?.unwrap_or(0)),
                u64::from(header.device_minor()?.unwrap_or(0)),
            ))
        };
        match kind {
            EntryType::Directory => make_directory(&place, mode)?,
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&place)?;
                let mut file = File::options().write(true).create_new(true).mode(0o600).open(place.path())?;
                self.bytes += io::copy(entry, &mut file)?;
            }
            EntryType::Symlink => {
                clear(&place)?;
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                std::os::unix::fs::symlink(target, place.path())?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.ok_or(io::ErrorKind::InvalidData)?;
                let target = clean(&target)?.ok_or(io::ErrorKind::InvalidData)?;
                if target == path {
                    return Ok(());
                }
                let target = self.place(&target)?;
                clear(&place)?;
                // Owner and mode are the target's.
                return fs::hard_link(target.path(), place.path());
            }
            EntryType::Char => make_node(&place, SFlag::S_IFCHR, device()?)?,
            EntryType::Block => make_node(&place, SFlag::S_IFBLK, device()?)?,
            EntryType::Fifo => make_node(&place, SFlag::S_IFIFO, 0)?,
            // Global headers and what we do not know carry no file.
            _ => return Ok(()),
        }
        let path_now = place.path();
        std::os::unix::fs::lchown(&path_now, Some(user), Some(group))?;
        if kind != EntryType::Symlink {
            fs::set_permissions(&path_now, fs::Permissions::from_mode(mode))?;
        }
        self.attributes(entry, &path_now)?;
        match kind {
            EntryType::Directory => {
                self.implied.remove(&path);
                self.times.push((path, seconds));
            }
            _ => set_time(&place, seconds)?,
        }
        Ok(())
    }

    /// Gives implied directories the looks that they have below.
    fn adopt(&mut self, lower: &[PathBuf]) -> io::Result<()> {
        for path in std::mem::take(&mut self.implied) {
            for layer in lower.iter().rev() {
                let below = match open_below(directory(layer)?.as_fd(), &path) {
                    Ok(below) => File::from(below).metadata()?,
                    Err(nix::errno::Errno::ENOENT) => continue,
                    // Something else lies there, or a whiteout: the directory is new.
                    Err(nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP) => break,
                    Err(error) => return Err(error.into()),
                };
                let place = self.place(&path)?;
                std::os::unix::fs::lchown(place.path(), Some(below.uid()), Some(below.gid()))?;
                fs::set_permissions(place.path(), fs::Permissions::from_mode(below.mode() & MODE_BITS))?;
                set_time(&place, below.mtime())?;
                break;
            }
        }
        Ok(())
    }

    /// The archive's entry for the layer's root: owner and mode.
    fn root_entry<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        if entry.header().entry_type() != EntryType::Directory {
            return Ok(());
        }
        let own = PathBuf::from(format!("/proc/self/fd/{}/.", self.root.as_raw_fd()));
        std::os::unix::fs::lchown(
            &own,
            Some(entry.header().uid().unwrap_or(0) as u32),
            Some(entry.header().gid().unwrap_or(0) as u32),
        )?;
        fs::set_permissions(&own, fs::Permissions::from_mode(entry.header().mode()? & MODE_BITS))
    }

    /// Extended attributes of the kinds that an image may carry. An image must not set overlayfs's own.
    fn attributes<R: Read>(&self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        let Some(extensions) = entry.pax_extensions()? else {
            return Ok(());
        };
        for extension in extensions {
            let extension = extension?;
            let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) else {
                continue;
            };
            if name != "security.capability" && !name.starts_with("user.") {
                continue;
            }
            match sys::set_xattr(path, name, extension.value_bytes()) {
                // user.* is refused on symlinks and by some file systems.
                Err(_) if name.starts_with("user.") => {}
                result => result?,
            }
        }
        Ok(())
    }
}

/// Removes what is there.
fn clear(place: &Place) -> io::Result<()> {
    crate::state::remove_all(&place.path())
}

/// Makes a directory, or keeps the one that is there.
fn make_directory(place: &Place, mode: u32) -> io::Result<()> {
    let path = place.path();
    match fs::symlink_metadata(&path) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => clear(place)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::create_dir(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

fn make_node(place: &Place, kind: SFlag, device: u64) -> io::Result<()> {
    clear(place)?;
    Ok(mknod(&place.path(), kind, Mode::from_bits_truncate(0o600), device)?)
}

fn set_time(place: &Place, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    Ok(utimensat(
        place.parent.as_fd(),
        &place.name,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileTypeExt;

    fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(7);
        header.set_gid(8);
        header.set_mtime(1_000);
        header
    }

    /// Appends an entry with a name that the builder would refuse.
    fn raw(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: EntryType, link: &str, content: &[u8]) {
        let mut header = header(kind, 0o4755, content.len() as u64);
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    #[test]
    fn a_layer_stays_inside_and_keeps_its_meaning() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir(&root).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        raw(&mut builder, "dir/", EntryType::Directory, "", b"");
        raw(&mut builder, "dir/file", EntryType::Regular, "", b"hello");
        raw(&mut builder, "hard", EntryType::Link, "dir/file", b"");
        raw(&mut builder, "up", EntryType::Symlink, "../..", b"");
        raw(&mut builder, "up/escaped", EntryType::Regular, "", b"x");
        raw(&mut builder, "abs", EntryType::Symlink, "/", b"");
        raw(&mut builder, "abs/absolute", EntryType::Regular, "", b"x");
        raw(&mut builder, "dir/.wh.gone", EntryType::Regular, "", b"");
        raw(&mut builder, "dir/.wh..wh..opq", EntryType::Regular, "", b"");
        raw(&mut builder, "pipe", EntryType::Fifo, "", b"");
        raw(&mut builder, "deep/er/file", EntryType::Regular, "", b"deep");
        let archive = builder.into_inner().unwrap();
        let zstd = zstd::encode_all(&archive[..], 1).unwrap();
        let unpacked = layer(&zstd[..], &root, &[]).unwrap();
        assert_eq!(unpacked.diff_id, format!("sha256:{}", hex::encode(Sha256::digest(&archive))));
        assert_eq!(unpacked.bytes, 11);
        let file = fs::metadata(root.join("dir/file")).unwrap();
        assert_eq!(
            (file.uid(), file.gid(), file.mode() & 0o7777, file.mtime(), file.nlink()),
            (7, 8, 0o4755, 1000, 2)
        );
        assert!(root.join("escaped").exists() && root.join("absolute").exists());
        assert!(!outside.path().join("escaped").exists());
        let gone = fs::symlink_metadata(root.join("dir/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        assert!(fs::symlink_metadata(root.join("pipe")).unwrap().file_type().is_fifo());
        assert_eq!(fs::metadata(root.join("dir")).unwrap().mtime(), 1000);
    }

    #[test]
    fn an_implied_directory_looks_as_it_does_below() {
        let lower: Vec<tempfile::TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
        let make = |layer: usize, name: &str, mode: u32| {
            let path = lower[layer].path().join(name);
            fs::create_dir_all(&path).unwrap();
            std::os::unix::fs::chown(&path, Some(5), Some(6)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        make(0, "tmp", 0o1777);
        make(0, "home/app", 0o700);
        make(1, "home/app", 0o2750);
        make(0, "later", 0o1777);
        make(0, "replaced", 0o1777);
        fs::write(lower[2].path().join("replaced"), "").unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["tmp/file", "home/app/file", "later/file", "replaced/file", "new/file"] {
            raw(&mut builder, name, EntryType::Regular, "", b"x");
        }
        raw(&mut builder, "later/", EntryType::Directory, "", b"");
        let root = tempfile::tempdir().unwrap();
        let below: Vec<PathBuf> = lower.iter().map(|layer| layer.path().to_owned()).collect();
        layer(&builder.into_inner().unwrap()[..], root.path(), &below).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        for (name, user, mode) in [
            ("tmp", 5, 0o1777),
            ("home/app", 5, 0o2750),
            ("later", 7, 0o4755),
            ("replaced", own, 0o755),
            ("new", own, 0o755),
        ] {
            let meta = fs::metadata(root.path().join(name)).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (user, mode), "{name}");
        }
    }

    #[test]
    fn a_path_with_dots_is_refused() {
        let root = tempfile::tempdir().unwrap();
        for (name, kind, link) in [("../x", EntryType::Regular, ""), ("x", EntryType::Link, "../../etc/passwd")] {
            let mut builder = tar::Builder::new(Vec::new());
            raw(&mut builder, name, kind, link, b"");
            assert!(layer(&builder.into_inner().unwrap()[..], root.path(), &[]).is_err(), "{name}");
        }
    }
}

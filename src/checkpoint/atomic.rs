//! Replacing a file so that at every moment, power cuts included, either the old or the new one is there, whole.

use crate::error::{Error, Result};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What replacing a file needs of the operating system; tests put failures in between.
pub trait Files {
    /// A file open for writing.
    type Handle: Write;

    /// Creates or empties a file.
    ///
    /// # Errors
    /// The operating system's.
    fn create(&self, path: &Path) -> io::Result<Self::Handle>;

    /// Waits until a file's bytes are on the medium.
    ///
    /// # Errors
    /// The operating system's.
    fn sync(&self, file: &mut Self::Handle) -> io::Result<()>;

    /// Gives a file a name, in place of what had that name.
    ///
    /// # Errors
    /// The operating system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Waits until a folder's names are on the medium.
    ///
    /// # Errors
    /// The operating system's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The operating system's.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The real files.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Files for Disk {
    type Handle = File;

    fn create(&self, path: &Path) -> io::Result<File> {
        File::create(path)
    }

    fn sync(&self, file: &mut File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    /// Only Unix can open a folder to wait for it; elsewhere the rename itself has to do.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }
}

/// Replaces the file at `path` by what `fill` writes: into a temporary file beside it, synced, renamed, the folder synced.
///
/// A leftover of a killed process, `.<name>.partial`, is harmless and overwritten by the next call.
///
/// # Errors
/// [`Error::Io`] naming `path`; the old file, if there was one, is then still there.
pub fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    write_with(&Disk, path, fill)
}

/// As [`write()`], through the given [`Files`].
///
/// # Errors
/// As [`write()`].
pub fn write_with<F: Files>(files: &F, path: &Path, fill: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let fail = |source: io::Error| Error::io("write", path, source);
    let temporary = partial(path).ok_or_else(|| fail(io::Error::from(io::ErrorKind::InvalidFilename)))?;
    let folder = match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let written = (|| {
        let mut buffered = BufWriter::with_capacity(1 << 20, files.create(&temporary)?);
        fill(&mut buffered)?;
        let mut file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
        files.sync(&mut file)?;
        drop(file);
        files.rename(&temporary, path)
    })();
    if written.is_err() {
        // The first error is the one to report; a leftover does no harm.
        let _ = files.remove(&temporary);
    }
    written.and_then(|()| files.sync_folder(folder)).map_err(fail)
}

/// The temporary name beside `path`, hidden from listings.
fn partial(path: &Path) -> Option<PathBuf> {
    let mut name = OsString::from(".");
    name.push(path.file_name()?);
    name.push(".partial");
    Some(path.with_file_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    /// Files in memory on a machine that fails at one operation.
    ///
    /// It keeps what a process would read and, apart from it, what the medium is sure to hold after a power cut.
    #[derive(Default)]
    struct Faulty {
        fault: Option<(usize, Fault)>,
        operations: Cell<usize>,
        crashed: Cell<bool>,
        /// What each name reads as now, and whether those bytes were synced.
        seen: RefCell<BTreeMap<PathBuf, (Vec<u8>, bool)>>,
        /// What each name reads as after a power cut, of the names that were synced.
        durable: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    }

    #[derive(Clone, Copy, Debug)]
    enum Fault {
        /// The operation reports an error and does nothing.
        Fail,
        /// A write stores half of its bytes and then fails; other operations fail.
        Short,
        /// Power goes: the operation and all later ones do nothing.
        Crash,
    }

    struct Handle<'a> {
        files: &'a Faulty,
        path: PathBuf,
    }

    impl Faulty {
        /// Counts an operation. An error if it is to fail; the fault's kind for writes.
        fn step(&self) -> Result<(), Fault> {
            let operation = self.operations.get();
            self.operations.set(operation + 1);
            if self.crashed.get() {
                return Err(Fault::Crash);
            }
            match self.fault {
                Some((at, fault)) if at == operation => {
                    self.crashed.set(matches!(fault, Fault::Crash));
                    Err(fault)
                }
                _ => Ok(()),
            }
        }

        fn step_or_full(&self) -> io::Result<()> {
            self.step().map_err(|_| io::ErrorKind::StorageFull.into())
        }
    }

    impl Write for Handle<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let outcome = self.files.step();
            let taken = match outcome {
                Ok(()) => bytes.len(),
                Err(Fault::Short) => bytes.len() / 2,
                Err(_) => 0,
            };
            let mut seen = self.files.seen.borrow_mut();
            let file = seen.get_mut(&self.path).unwrap();
            file.0.extend_from_slice(&bytes[..taken]);
            file.1 = false;
            outcome.map(|()| taken).map_err(|_| io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> Files for &'a Faulty {
        type Handle = Handle<'a>;

        fn create(&self, path: &Path) -> io::Result<Handle<'a>> {
            self.step_or_full()?;
            self.seen.borrow_mut().insert(path.into(), (Vec::new(), false));
            Ok(Handle { files: self, path: path.into() })
        }

        fn sync(&self, file: &mut Handle<'a>) -> io::Result<()> {
            self.step_or_full()?;
            if let Some(file) = self.seen.borrow_mut().get_mut(&file.path) {
                file.1 = true;
            }
            Ok(())
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.step_or_full()?;
            let file = self.seen.borrow_mut().remove(from).ok_or(io::ErrorKind::NotFound)?;
            // The medium may record the new name at any time from now on, with whatever bytes it has by then.
            let surviving = if file.1 { file.0.clone() } else { b"garbage".to_vec() };
            self.durable.borrow_mut().insert(to.into(), surviving);
            self.seen.borrow_mut().insert(to.into(), file);
            Ok(())
        }

        fn sync_folder(&self, _: &Path) -> io::Result<()> {
            self.step_or_full()
        }

        fn remove(&self, path: &Path) -> io::Result<()> {
            self.step_or_full()?;
            self.seen.borrow_mut().remove(path);
            Ok(())
        }
    }

    const OLD: &[u8] = b"the old weights";

    fn new_content() -> Vec<u8> {
        (0..3_000_000_u32).map(|i| i as u8).collect()
    }

    fn replace(fault: Option<(usize, Fault)>) -> (Faulty, Result<()>) {
        let files = Faulty { fault, ..Faulty::default() };
        files.seen.borrow_mut().insert("run/last".into(), (OLD.to_vec(), true));
        files.durable.borrow_mut().insert("run/last".into(), OLD.to_vec());
        let content = new_content();
        let result = write_with(&&files, Path::new("run/last"), |file| {
            content.chunks(100_000).try_for_each(|chunk| file.write_all(chunk))
        });
        (files, result)
    }

    #[test]
    fn every_failure_at_every_operation_leaves_the_old_or_the_new_file_whole() {
        let (files, result) = replace(None);
        result.unwrap();
        let operations = files.operations.get();
        assert!(operations > 6, "too few operations for the test to mean anything: {operations}");
        let (mut old, mut new) = (0, 0);
        for at in 0..operations {
            for fault in [Fault::Fail, Fault::Short, Fault::Crash] {
                let (files, result) = replace(Some((at, fault)));
                let message = result.unwrap_err().to_string();
                assert!(message.contains("run/last"), "{message}");
                let seen = files.seen.borrow()[Path::new("run/last")].0.clone();
                let durable = files.durable.borrow()[Path::new("run/last")].clone();
                assert_eq!(seen, durable, "operation {at}, {fault:?}");
                if durable == OLD {
                    old += 1;
                } else {
                    assert!(durable == new_content(), "operation {at}, {fault:?}: neither old nor new");
                    new += 1;
                }
                let leftover = files.seen.borrow().contains_key(Path::new("run/.last.partial"));
                assert!(!leftover || matches!(fault, Fault::Crash), "operation {at}, {fault:?} leaves a partial file");
            }
        }
        assert!(old > 0 && new > 0, "{old} {new}");
    }

    #[test]
    fn the_fault_injection_notices_a_missing_sync() {
        let files = Faulty::default();
        let handle = (&&files).create(Path::new("a")).unwrap();
        drop(handle);
        (&&files).rename(Path::new("a"), Path::new("b")).unwrap();
        assert_eq!(files.durable.borrow()[Path::new("b")], b"garbage");
    }

    #[test]
    fn real_files_are_replaced_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("last.safetensors");
        for content in [&b"first"[..], b"second"] {
            write(&path, |file| file.write_all(content)).unwrap();
            assert_eq!(fs::read(&path).unwrap(), content);
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
        write(&path, |_| Err(io::Error::other("cannot think of anything"))).unwrap_err();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn an_unwritable_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing").join("last.safetensors");
        let message = write(&path, |_| Ok(())).unwrap_err().to_string();
        assert!(message.starts_with("cannot write") && message.contains("last.safetensors"), "{message}");
    }
}

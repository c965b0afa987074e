//! Compiled kernels, kept in a file from one run of a program to the next.

use super::consent::{pipeline_cache, sealed};
use super::device::Gpu;
use crate::checkpoint::atomic;
use crate::error::{Error, Result};
use crate::file;
use std::fs;
use std::path::{Path, PathBuf};

/// The largest file that is read. A cache only grows, by kernels of earlier versions, too; one that has become larger begins anew.
const LARGEST_FILE_BYTES: u64 = 64 << 20;

/// What the driver keeps of the pipelines that a device compiles, and the file that it comes from and goes to.
#[derive(Debug)]
pub(super) struct PipelineCache {
    entries: wgpu::PipelineCache,
    folder: PathBuf,
    /// The file's name in the folder.
    name: String,
    /// What the entries are of.
    head: String,
    /// A checksum of the file as it was read.
    read: u32,
}

impl PipelineCache {
    /// The cache in this folder for a device; none where the device has no such thing.
    pub(super) fn open(gpu: &Gpu, info: &wgpu::AdapterInfo, folder: &Path) -> Option<Self> {
        let name = wgpu::util::pipeline_cache_key(info)?;
        if !gpu.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return None;
        }
        let head = format!("tilewise pipeline cache 1: {name}, {}, {} {}\n", info.name, info.driver, info.driver_info);
        let file = file::read(&folder.join(&name), LARGEST_FILE_BYTES).unwrap_or_else(|problem| {
            tracing::debug!("no kernels that were compiled before: {problem}");
            Vec::new()
        });
        match gpu.scoped("a pipeline cache", || pipeline_cache(&gpu.device, &head, &file)) {
            Ok(entries) => Some(Self { entries, folder: folder.into(), name, head, read: crc32c::crc32c(&file) }),
            Err(problem) => {
                tracing::debug!("kernels that are compiled are not kept: {problem}");
                None
            }
        }
    }

    /// Where compiled pipelines are looked up and added.
    pub(super) fn entries(&self) -> &wgpu::PipelineCache {
        &self.entries
    }

    /// The folder of the file.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn keep(&self) -> Result<()> {
        // A device that is lost has no data.
        let Some(data) = self.entries.get_data() else { return Ok(()) };
        let contents = sealed(&self.head, &data);
        let path = self.folder.join(&self.name);
        // What another device has added since counts for more than what this one would.
        let found = file::read(&path, LARGEST_FILE_BYTES).unwrap_or_default();
        let is_new = crc32c::crc32c(&contents) != self.read && crc32c::crc32c(&found) == self.read;
        if !is_new || contents.len() as u64 > LARGEST_FILE_BYTES {
            return Ok(());
        }
        fs::create_dir_all(&self.folder).map_err(|error| Error::io("create", &self.folder, error))?;
        atomic::write(&path, |file| file.write_all(&contents))
    }
}

impl Drop for PipelineCache {
    /// Once per device, so that it costs neither plans nor steps anything.
    fn drop(&mut self) {
        if let Err(problem) = self.keep() {
            tracing::debug!("kernels that were compiled are not kept: {problem}");
        }
    }
}

//! What wgpu asks `unsafe` for, since it cannot check it. There is no other `unsafe` in this crate.

/// What lets a device have these features.
///
/// wgpu asks for `unsafe` where a feature is experimental, since what the driver gets of it may be wrong. Of these features that is the
/// one for matrices, and only kernels of this crate's use them, whose texts are part of it: they load from storage that they only read,
/// within its bounds, and store to storage that no other invocation reads; none of them passes anything through workgroup memory, of which
/// naga 30 orders the accesses too weakly in such a kernel. Each result is held against its reference before it is chosen.
pub(super) fn experimental(features: wgpu::Features) -> wgpu::ExperimentalFeatures {
    if features.intersects(wgpu::Features::all_experimental_mask()) {
        #[expect(unsafe_code, reason = "see above")]
        // SAFETY: what may be undefined here is what those kernels avoid.
        unsafe {
            wgpu::ExperimentalFeatures::enabled()
        }
    } else {
        wgpu::ExperimentalFeatures::disabled()
    }
}

/// The module of a kernel. naga keeps each of its indices within bounds, where the driver does not, unless they are `proved` to be; loops come to
/// an end and divisors are not 0 in any case, so that what is not `proved` is what `Device::create_shader_module` makes.
///
/// wgpu asks for `unsafe` since what is out of bounds may be anything.
pub(super) fn shader_module(
    device: &wgpu::Device,
    descriptor: wgpu::ShaderModuleDescriptor<'_>,
    proved: bool,
) -> wgpu::ShaderModule {
    let checks = wgpu::ShaderRuntimeChecks { bounds_checks: !proved, ..wgpu::ShaderRuntimeChecks::checked() };
    #[expect(unsafe_code, reason = "see above")]
    // SAFETY: only an op of this crate's can say that it is `proved` (`op::Proof`), and none does whose shape rule or candidates let through what its
    // kernels are not made for. Their indices follow from the types of its tensors, which have passed that rule, and from which invocation it
    // is, whatever workgroup a launch begins with; from nothing that is in a tensor. What a plan binds is as large as the type says, and
    // scratch space as its candidate does. Tests run these kernels with each index looked at (`source::trapped`), at the edges of tiles and
    // tensors; those that load matrices, of which an index tells only the beginning, are not `proved`.
    unsafe {
        device.create_shader_module_trusted(descriptor, checks)
    }
}

/// What pipelines that this device compiles are kept in. It begins with what `file` holds, if that is whole and [`sealed`] under this
/// `head`, which names the device and its driver; else it begins empty.
///
/// wgpu asks for `unsafe` since drivers trust this data, of which they look at the header at most.
pub(super) fn pipeline_cache(device: &wgpu::Device, head: &str, file: &[u8]) -> wgpu::PipelineCache {
    let data = unsealed(head, file);
    #[expect(unsafe_code, reason = "see above")]
    // SAFETY: the data has to be what `PipelineCache::get_data` has returned for the same model of device. Only what has that, `sealed`, is
    // under such a head, and the checksum tells if anything has become of it since. What this relies on is that nobody has forged the file:
    // it lies in a folder of the user's own, and a host that names another one is told what that means (`Gpu::with_pipeline_cache`).
    unsafe {
        let label = Some("tilewise");
        device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor { label, data, fallback: true })
    }
}

/// Data of [`wgpu::PipelineCache::get_data`] as a file: behind what it is of and a checksum.
pub(super) fn sealed(head: &str, data: &[u8]) -> Vec<u8> {
    [head.as_bytes(), &crc32c::crc32c(data).to_le_bytes(), data].concat()
}

/// The data of a file that [`sealed`] made under the same head, if it is as it was.
fn unsealed<'a>(head: &str, file: &'a [u8]) -> Option<&'a [u8]> {
    let (checksum, data) = file.strip_prefix(head.as_bytes())?.split_first_chunk()?;
    (crc32c::crc32c(data) == u32::from_le_bytes(*checksum)).then_some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_sealed_under_the_same_head_and_is_whole_reaches_the_driver() {
        let file = sealed("this driver\n", b"compiled");
        assert_eq!(unsealed("this driver\n", &file), Some(&b"compiled"[..]));
        assert_eq!(unsealed("that driver\n", &file), None);
        for length in 0..file.len() {
            assert_eq!(unsealed("this driver\n", &file[..length]), None, "cut off after {length} bytes");
        }
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 1;
            assert_eq!(unsealed("this driver\n", &damaged), None, "byte {place}");
        }
        assert_eq!(unsealed("this driver\n", &[file, vec![0]].concat()), None);
    }
}

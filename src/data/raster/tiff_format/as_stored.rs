//! Grey that is inverted and palettes, read as the numbers that are in the file.
//!
//! The decoder inverts samples of which 0 is white, those of several bands or of signed numbers it refuses, and it refuses palettes.
//! All of these are stored like ordinary grey, so it is shown a file whose tag says just that.

use std::io::{Read, Result, Seek, SeekFrom};

use tiff::decoder::Decoder;
use tiff::tags::{PhotometricInterpretation, Tag, Type};
use tiff::{TiffError, TiffFormatError, TiffResult};

/// A source of which two bytes read as others.
pub(super) struct AsStored<R> {
    source: R,
    position: u64,
    /// Where they are, and as what they read.
    replaced: Option<(u64, [u8; 2])>,
}

impl<R: Read + Seek> AsStored<R> {
    /// A source that reads as it is. It stands at its start.
    pub(super) fn new(source: R) -> Self {
        Self { source, position: 0, replaced: None }
    }
}

impl<R: Read> Read for AsStored<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let count = self.source.read(buffer)?;
        if let Some((at, bytes)) = self.replaced {
            for (at, byte) in (at..).zip(bytes) {
                let within = at.checked_sub(self.position).and_then(|offset| usize::try_from(offset).ok());
                if let Some(target) = within.and_then(|offset| buffer[..count].get_mut(offset)) {
                    *target = byte;
                }
            }
        }
        self.position += count as u64;
        Ok(count)
    }
}

impl<R: Seek> Seek for AsStored<R> {
    fn seek(&mut self, to: SeekFrom) -> Result<u64> {
        self.position = self.source.seek(to)?;
        Ok(self.position)
    }
}

/// Reads the directory of the current page, which has this index, once more, with samples taken for grey of which 0 is black.
pub(super) fn take_for_grey<R: Read + Seek>(decoder: &mut Decoder<AsStored<R>>, page: usize) -> TiffResult<()> {
    let missing = || TiffError::FormatError(TiffFormatError::RequiredTagNotFound(Tag::PhotometricInterpretation));
    let ifd = decoder.ifd_pointer().ok_or_else(missing)?.0;
    decoder.goto_offset_u64(2)?;
    let big = decoder.read_short()? == 43;
    decoder.goto_offset_u64(ifd)?;
    // An entry: tag, type, count, value; the count of entries before all.
    let (entries, head, size, value) =
        if big { (decoder.read_long8()?, 8, 20, 12) } else { (decoder.read_short()?.into(), 2, 12, 8) };
    for entry in (0..entries).map(|entry| ifd + head + entry * size) {
        decoder.goto_offset_u64(entry)?;
        if decoder.read_short()? != Tag::PhotometricInterpretation.to_u16() {
            continue;
        }
        if decoder.read_short()? != Type::SHORT.to_u16() {
            break;
        }
        let black = PhotometricInterpretation::BlackIsZero.to_u16();
        let bytes = match decoder.byte_order() {
            tiff::tags::ByteOrder::LittleEndian => black.to_le_bytes(),
            tiff::tags::ByteOrder::BigEndian => black.to_be_bytes(),
        };
        decoder.inner().replaced = Some((entry + value, bytes));
        return decoder.seek_to_image(page);
    }
    Err(missing())
}

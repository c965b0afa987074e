//! Images and label maps, PNG and TIFF, page by page.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::fs;
use tilewise::data::raster::Page;
use tilewise::data::{Image, LabelMap};

fuzz_target!(|data: &[u8]| {
    let Some((&how, data)) = data.split_first() else { return };
    // Fuzzers find formats by themselves, but slowly: half of the inputs get the first bytes of one.
    let (suffix, start): (&str, &[u8]) = match how % 4 {
        0 => (".png", b""),
        1 => (".tif", b""),
        2 => (".png", b"\x89PNG\r\n\x1a\n"),
        _ => (".tif", b"II*\0\x08\0\0\0"),
    };
    let file = tempfile::Builder::new().suffix(suffix).tempfile().expect("a temporary file");
    fs::write(file.path(), [start, data].concat()).expect("a temporary file");
    let Ok(pages) = Page::of_file(file.path()) else { return };
    for page in pages.iter().take(4) {
        let _ = Image::read_page(page).map(|mut image| image.normalise());
        let _ = LabelMap::read_page(page);
    }
});

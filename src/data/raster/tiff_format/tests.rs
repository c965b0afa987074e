//! What is read as stored and what is refused, mostly on files written byte by byte.

use super::*;
use crate::Error;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Cursor;
use std::path::Path;
use tiff::encoder::TiffEncoder;
use tiff::encoder::colortype::{Gray8, Gray16, Gray32, Gray32Float, RGB8, RGBA16};

/// A file with this entry list: (tag, type, count, value or offset), in the given byte order.
fn by_hand(big_endian: bool, entries: &[(u16, u16, u32, u32)], pixels: &[u8]) -> Vec<u8> {
    let two = |value: u16| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let four = |value: u32| if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
    let mut bytes = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    bytes.extend(two(42));
    bytes.extend(four(8 + pixels.len() as u32));
    bytes.extend(pixels);
    bytes.extend(two(entries.len() as u16));
    for &(tag, kind, count, value) in entries {
        bytes.extend(two(tag));
        bytes.extend(two(kind));
        bytes.extend(four(count));
        match kind {
            3 => bytes.extend([two(value as u16), two(0)].concat()),
            _ => bytes.extend(four(value)),
        }
    }
    bytes.extend(four(0));
    bytes
}

/// Uncompressed grey, 3 x 2 pixels in one strip.
fn grey(big_endian: bool, bits: u32, pixels: &[u8]) -> Vec<u8> {
    by_hand(big_endian, &grey_entries(bits, pixels), pixels)
}

fn grey_entries(bits: u32, pixels: &[u8]) -> [(u16, u16, u32, u32); 9] {
    [
        (256, 3, 1, 3),
        (257, 3, 1, 2),
        (258, 3, 1, bits),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 1, 8),
        (277, 3, 1, 1),
        (278, 3, 1, 2),
        (279, 4, 1, pixels.len() as u32),
    ]
}

fn read_bytes(bytes: &[u8]) -> Result<Raster> {
    open(&Path::new("a.tif").into(), Cursor::new(bytes), |_| 1)?.decode()
}

fn refusal(bytes: &[u8]) -> Finding {
    match read_bytes(bytes) {
        Err(Error::Finding(finding)) => *finding,
        other => panic!("{other:?}"),
    }
}

/// Uncompressed, 3 x 2 pixels in one strip, with these entries changed or added.
fn changed(big_endian: bool, bits: u32, changes: &[(u16, u16, u32, u32)], pixels: &[u8]) -> Vec<u8> {
    let mut entries: BTreeMap<u16, (u16, u16, u32, u32)> =
        grey_entries(bits, pixels).into_iter().map(|entry| (entry.0, entry)).collect();
    entries.extend(changes.iter().map(|&entry| (entry.0, entry)));
    by_hand(big_endian, &entries.into_values().collect::<Vec<_>>(), pixels)
}

const WHITE_IS_ZERO: (u16, u16, u32, u32) = (262, 3, 1, 0);
const PALETTE: (u16, u16, u32, u32) = (262, 3, 1, 3);
const SIGNED: (u16, u16, u32, u32) = (339, 3, 1, 2);
const FLOAT: (u16, u16, u32, u32) = (339, 3, 1, 3);

#[test]
fn values_of_which_0_is_white_are_read_as_stored() {
    let check = |bytes: &[u8], expected: [f32; 6]| {
        let raster = read_bytes(bytes).unwrap();
        assert_eq!((raster.white_is_zero, raster.samples), (true, expected.to_vec()));
    };
    let white = |big_endian, bits, pixels: &[u8]| changed(big_endian, bits, &[WHITE_IS_ZERO], pixels);
    check(&white(true, 1, &[0b1010_0000, 0b0110_0000]), [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]);
    check(&white(false, 8, &[0, 1, 2, 3, 254, 255]), [0.0, 1.0, 2.0, 3.0, 254.0, 255.0]);
    let words = [0_u16, 1, 2, 300, 65_534, 65_535];
    let expected = words.map(f32::from);
    check(&white(true, 16, &words.map(u16::to_be_bytes).concat()), expected);
    check(&white(false, 16, &words.map(u16::to_le_bytes).concat()), expected);
    let floats = [0.0_f32, 1.0, 0.1, 7.0, -3.0, 1e-9];
    check(&changed(false, 32, &[WHITE_IS_ZERO, FLOAT], &floats.map(f32::to_le_bytes).concat()), floats);
    assert!(!read_bytes(&grey(false, 8, &[0; 6])).unwrap().white_is_zero);
    let mut big = Cursor::new(Vec::new());
    TiffEncoder::new_big(&mut big).unwrap().write_image::<Gray8>(3, 2, &[5, 4, 3, 2, 1, 0]).unwrap();
    let mut big = big.into_inner();
    // Tag 262 of BigTIFF: one SHORT.
    let entry = [&262_u16.to_ne_bytes()[..], &3_u16.to_ne_bytes(), &1_u64.to_ne_bytes()].concat();
    let at = big.windows(entry.len()).position(|bytes| bytes == entry).unwrap() + entry.len();
    big[at..at + 2].copy_from_slice(&0_u16.to_ne_bytes());
    check(&big, [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]);
}

/// Lines of samples of so many bits, packed bit by bit, each line from a byte on.
fn packed(bits: u32, lines: &[&[u32]]) -> Vec<u8> {
    let byte = |eight: &[u8]| eight.iter().enumerate().fold(0, |byte, (at, bit)| byte | bit << (7 - at));
    let line = |samples: &&[u32]| -> Vec<u8> {
        let written: Vec<u8> =
            samples.iter().flat_map(|value| (0..bits).rev().map(move |bit| (value >> bit & 1) as u8)).collect();
        written.chunks(8).map(byte).collect()
    };
    lines.iter().flat_map(line).collect()
}

#[test]
fn samples_of_every_number_of_bits_are_read() {
    for bits in 1..=8 {
        let largest = (1 << bits) - 1;
        let [first, second] = [[largest, 0, largest], [1, largest, largest - 1]];
        let raster = read_bytes(&grey(false, bits, &packed(bits, &[&first, &second]))).unwrap();
        let expected: Vec<f32> = [first, second].as_flattened().iter().map(|&value| value as f32).collect();
        assert_eq!((u32::from(raster.bit_depth), raster.samples), (bits, expected), "{bits} bits");
    }
}

#[test]
fn planes_of_few_bits_begin_their_lines_at_a_byte() {
    let lines = [[7, 0, 1], [2, 3, 4], [5, 6, 7], [1, 0, 6]];
    let planes = packed(3, &lines.each_ref().map(|line| &line[..]));
    let half = planes.len() as u32 / 2;
    // Two strips, whose offsets and lengths stand behind the pixels.
    let at = 8 + planes.len() as u32;
    let content = [planes, [8, 8 + half, half, half].map(u32::to_le_bytes).concat()].concat();
    let changes = [(273, 4, 2, at), (277, 3, 1, 2), (279, 4, 2, at + 8), (284, 3, 1, 2), (338, 3, 1, 0)];
    let raster = read_bytes(&changed(false, 3, &changes, &content)).unwrap();
    assert_eq!(raster.channels, 2);
    assert_eq!(raster.samples, [7.0, 5.0, 0.0, 6.0, 1.0, 7.0, 2.0, 1.0, 3.0, 0.0, 4.0, 6.0]);
}

#[test]
fn palette_indices_survive_beside_their_colours() {
    // The map stands where the pixels do, behind them: four reds, four greens, four blues.
    let levels = [0_u16, 255, 0, 9, 0, 0, 255, 9, 0, 0, 0, 9];
    for shift in [0, 8] {
        let map: Vec<u8> = levels.iter().flat_map(|level| (level << shift).to_le_bytes()).collect();
        let content = [&[0b0001_1000, 0b1100_0100][..], &map].concat();
        let raster = read_bytes(&changed(false, 2, &[PALETTE, (320, 3, 12, 10)], &content)).unwrap();
        assert_eq!(raster.samples, [0.0, 1.0, 2.0, 3.0, 0.0, 1.0]);
        assert_eq!(raster.palette.unwrap(), [[0; 3], [255, 0, 0], [0, 255, 0], [9; 3]]);
    }
}

#[test]
fn wide_integers_are_read_while_they_are_exact() {
    let numbers = [0_i64, 1, 2, 300, 1 << 24, 7];
    let expected = numbers.map(|number| number as f32);
    let narrow = numbers.map(|number| (number as i32).to_le_bytes()).concat();
    let wide = numbers.map(i64::to_le_bytes).concat();
    for (bits, changes, pixels) in
        [(32, &[SIGNED][..], &narrow), (64, &[SIGNED], &wide), (64, &[], &wide), (32, &[], &narrow)]
    {
        assert_eq!(read_bytes(&changed(false, bits, changes, pixels)).unwrap().samples, expected);
    }
    let beyond = [0, 1, 2, 3, (1 << 24) + 1, 4];
    let unsigned: Vec<u8> = beyond.map(i64::to_le_bytes).concat();
    let signed: Vec<u8> = beyond.map(|number| (-number).to_le_bytes()).concat();
    let floats: Vec<u8> = beyond.map(|number| (number as f64).to_le_bytes()).concat();
    for (changes, pixels, value) in
        [(&[][..], &unsigned, "16777217"), (&[SIGNED], &signed, "-16777217"), (&[FLOAT], &floats, "16777217")]
    {
        let finding = refusal(&changed(false, 64, changes, pixels));
        assert_eq!(
            (finding.code, finding.pixel, finding.value.as_deref()),
            (Code::NotExact, Some([1, 1]), Some(value))
        );
    }
    let fractions = beyond.map(|number| (number as f64 + 0.5).to_le_bytes()).concat();
    assert!(read_bytes(&changed(false, 64, &[FLOAT], &fractions)).is_ok(), "an image may have such values");
}

#[test]
fn kinds_that_are_not_read_are_named() {
    let cases = [
        (changed(false, 16, &[FLOAT], &[0; 12]), "16-bit floating-point samples is not supported"),
        (changed(false, 8, &[(262, 3, 1, 6)], &[0; 6]), "is not supported"),
        (
            changed(false, 8, &[(262, 3, 1, 5), (277, 3, 1, 4)], &[0; 24]),
            "the TIFF colour type CMYK(8) is not supported",
        ),
    ];
    for (bytes, expected) in cases {
        let finding = refusal(&bytes);
        assert!(finding.code == Code::Unsupported && finding.text.contains(expected), "{finding}");
    }
}

#[test]
fn files_that_ask_for_too_much_are_refused_before_they_get_it() {
    let square = |side| [(256, 4, 1, side), (257, 4, 1, side), (278, 4, 1, side)];
    let huge = refusal(&changed(false, 8, &square(60_000), &[0; 6]));
    assert!(huge.code == Code::TooLarge && huge.text.contains("take 13732 MiB, above the limit"), "{huge}");
    let strip = refusal(&changed(false, 8, &[(259, 3, 1, 8), (279, 4, 1, u32::MAX)], &[0; 6]));
    assert!(strip.code == Code::TooLarge && strip.text.contains("more memory than its pixels"), "{strip}");
    // As many pixels as labels may have: with the colours of their palette three times as much as an image may have.
    let content = [&[0_u8; 2][..], &[0_u16, 255, 0, 0, 0, 0].map(u16::to_le_bytes).concat()].concat();
    let bomb = changed(false, 1, &[&square(16_384)[..], &[PALETTE, (320, 3, 6, 10)]].concat(), &content);
    let page = Path::new("a.tif").into();
    let refused = open(&page, Cursor::new(bomb), super::super::colour_channels).err();
    let message = refused.unwrap().to_string();
    assert!(message.contains("take 3072 MiB, above the limit of 1024 MiB"), "{message}");
}

#[test]
fn a_stack_has_a_largest_number_of_pages() {
    let mut bytes = Cursor::new(Vec::new());
    {
        let mut encoder = TiffEncoder::new(&mut bytes).unwrap();
        for _ in 0..=MAX_PAGES {
            encoder.write_image::<Gray8>(1, 1, &[0]).unwrap();
        }
    }
    let message = pages(&Path::new("a.tif").into(), Cursor::new(bytes.into_inner())).unwrap_err().to_string();
    assert_eq!(message, "a.tif: more than 10000 pages; split the stack");
}

#[test]
fn both_byte_orders_and_one_bit_are_read_as_stored() {
    let expected = [0.0, 1.0, 256.0, 515.0, 65_534.0, 65_535.0];
    let words = [0_u16, 1, 256, 515, 65_534, 65_535];
    let big: Vec<u8> = words.iter().flat_map(|word| word.to_be_bytes()).collect();
    let little: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    assert_eq!(read_bytes(&grey(true, 16, &big)).unwrap().samples, expected);
    assert_eq!(read_bytes(&grey(false, 16, &little)).unwrap().samples, expected);
    let one_bit = read_bytes(&grey(true, 1, &[0b1010_0000, 0b0110_0000])).unwrap();
    assert_eq!((one_bit.bit_depth, one_bit.samples), (1, vec![1.0, 0.0, 1.0, 0.0, 1.0, 1.0]));
}

#[test]
fn encoded_files_of_every_kind_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let encoder = || TiffEncoder::new(File::create(&path).unwrap()).unwrap();
    encoder().write_image::<Gray8>(2, 1, &[3, 255]).unwrap();
    assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [3.0, 255.0]);
    encoder().write_image::<Gray16>(2, 1, &[3, 65_535]).unwrap();
    assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [3.0, 65_535.0]);
    encoder().write_image::<Gray32Float>(2, 1, &[0.25, -3.5]).unwrap();
    assert_eq!(Raster::read(&path.as_path().into()).unwrap().samples, [0.25, -3.5]);
    encoder().write_image::<RGB8>(1, 2, &[1, 2, 3, 4, 5, 6]).unwrap();
    let rgb = Raster::read(&path.as_path().into()).unwrap();
    assert_eq!((rgb.height, rgb.channels, rgb.samples), (2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    encoder().write_image::<RGBA16>(1, 1, &[1, 2, 3, 4]).unwrap();
    let rgba = Raster::read(&path.as_path().into()).unwrap();
    assert_eq!((rgba.alpha_dropped, rgba.samples), (true, vec![1.0, 2.0, 3.0]));
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.tif");
    let message = || Raster::read(&path.as_path().into()).unwrap_err().to_string();
    let encoder = || TiffEncoder::new(File::create(&path).unwrap()).unwrap();
    encoder().write_image::<Gray32Float>(3, 1, &[0.0, 1.0, f32::NAN]).unwrap();
    assert!(message().contains("a.tif: the value at x=2, y=0 is NaN"), "{}", message());
    encoder().write_image::<Gray32>(1, 1, &[20_000_000]).unwrap();
    assert!(
        message().contains("the value 20000000 is above 16777216, beyond which numbers are not told apart; renumber"),
        "{}",
        message()
    );
    let mut pages = encoder();
    pages.write_image::<Gray8>(1, 1, &[1]).unwrap();
    pages.write_image::<Gray8>(1, 1, &[2]).unwrap();
    assert!(message().contains("several pages where one image is wanted; save each page"), "{}", message());
}

#[test]
fn damage_anywhere_is_an_error_or_an_image_but_never_a_panic() {
    let whole = grey(false, 8, &[1, 2, 3, 4, 5, 6]);
    for length in 4..whole.len() - 4 {
        let message = read_bytes(&whole[..length]).unwrap_err().to_string();
        assert!(message.contains("damaged or incomplete TIFF file"), "{length}: {message}");
    }
    for at in 4..whole.len() {
        for value in [0, 1, 2, 7, 64, 255] {
            let mut broken = whole.clone();
            broken[at] = value;
            let _ = read_bytes(&broken);
        }
    }
}

#[test]
fn planes_are_interleaved() {
    assert_eq!(interleaved(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3), [1.0, 3.0, 5.0, 2.0, 4.0, 6.0]);
}

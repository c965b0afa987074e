//! The run for `TensorBoard`: a file of `TFRecord`s, each an `Event` in protocol buffers.
//!
//! A record is the length of its data, u64, the masked CRC-32C of these eight bytes, the data, and their masked CRC-32C, all little
//! endian; masked is `rotate_right(crc, 15) + 0xa282ead8`. Sources: `record_writer.h`, `event.proto` and `summary.proto` of `TensorFlow`.

use super::record::Record;
use crate::checkpoint::atomic;
use crate::error::{Error, Result};
use prost::Message;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The event file in the folder of a run; `TensorBoard` finds it by the middle of its name.
pub const EVENTS: &str = "events.out.tfevents.tilewise";

/// The fields of TensorFlow's `Event` that are used here.
#[derive(Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    /// Of the first event only.
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Values>,
}

/// TensorFlow's `Summary`.
#[derive(Message)]
struct Values {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

/// `Summary.Value`: a name, and one of a number and a picture.
#[derive(Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    /// `simple_value` there.
    #[prost(float, optional, tag = "2")]
    number: Option<f32>,
    #[prost(message, optional, tag = "4")]
    image: Option<Image>,
}

/// `Summary.Image`.
#[derive(Message)]
struct Image {
    #[prost(int32, tag = "1")]
    height: i32,
    #[prost(int32, tag = "2")]
    width: i32,
    /// The number of channels.
    #[prost(int32, tag = "3")]
    colorspace: i32,
    #[prost(bytes = "vec", tag = "4")]
    encoded_image_string: Vec<u8>,
}

/// What a validation image looked like to the network.
#[derive(Debug)]
pub(super) struct Shown {
    /// The name of the image.
    pub(super) name: String,
    /// Height and width.
    pub(super) size: [usize; 2],
    /// An RGB picture.
    pub(super) png: Vec<u8>,
}

/// The event file, open for the next step.
#[derive(Debug)]
pub(super) struct Events {
    path: PathBuf,
    file: File,
}

fn masked_crc(data: &[u8]) -> [u8; 4] {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn framed(event: &Event) -> Vec<u8> {
    let data = event.encode_to_vec();
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), &data, &masked_crc(&data)].concat()
}

/// The event of the first record, and the bytes after it; `None` where no whole record follows.
fn first(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (data_crc, rest) = rest.split_first_chunk()?;
    let whole = *crc == masked_crc(length) && *data_crc == masked_crc(data);
    Event::decode(data).ok().filter(|_| whole).map(|event| (event, rest))
}

/// The bytes of the whole records of steps up to `step`.
fn kept(bytes: &[u8], step: u32) -> &[u8] {
    let mut rest = bytes;
    while let Some((_, after)) = first(rest).filter(|(event, _)| event.step <= i64::from(step)) {
        rest = after;
    }
    &bytes[..bytes.len() - rest.len()]
}

fn event(step: u32, summary: Option<Values>) -> Event {
    let wall_time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let file_version = summary.is_none().then(|| "brain.Event:2".to_owned());
    Event { wall_time, step: i64::from(step), file_version, summary }
}

impl Events {
    /// Keeps the events up to a step, which is where the checkpoint stands, and forgets later ones: they come again.
    pub(super) fn open(path: &Path, step: u32) -> Result<Self> {
        let before = if step > 0 && path.exists() {
            fs::read(path).map_err(|error| Error::io("read", path, error))?
        } else {
            Vec::new()
        };
        let kept = kept(&before, step);
        let head = if kept.is_empty() { framed(&event(0, None)) } else { Vec::new() };
        atomic::write(path, |file| file.write_all(&head).and_then(|()| file.write_all(kept)))?;
        let file = OpenOptions::new().append(true).open(path).map_err(|error| Error::io("open", path, error))?;
        Ok(Self { path: path.into(), file })
    }

    /// Adds a step, with what its evaluation shows.
    pub(super) fn append(&mut self, record: &Record, shown: &mut Vec<Shown>) -> Result<()> {
        let scalars = [
            ("loss/training", Some(f64::from(record.loss))),
            ("scale of the loss", record.scaling.map(|scaling| f64::from(scaling.loss_scale))),
            ("overflows", record.scaling.map(|scaling| f64::from(scaling.overflows))),
            ("learning_rate", Some(f64::from(record.learning_rate))),
            ("gradient_norm", record.grad_norm.map(f64::from)),
        ];
        let scores = record.scored.map(|scored| {
            [
                ("loss/validation", scored.validation_loss),
                ("validation/foreground_iou", scored.foreground_iou),
                ("validation/mean_iou", scored.mean_iou),
                ("validation/pixel_error", Some(scored.pixel_error)),
                ("validation/ap50", scored.ap50),
                ("validation/mean_ap", scored.mean_ap),
            ]
        });
        let scalars = scalars.into_iter().chain(scores.into_iter().flatten());
        let number = |(tag, value): (&str, Option<f64>)| {
            Some(Value { tag: tag.into(), number: Some(value? as f32), image: None })
        };
        let mut value: Vec<Value> = scalars.filter_map(number).collect();
        value.extend(shown.drain(..).map(|Shown { name, size: [height, width], png }| {
            let (height, width) = (height as i32, width as i32);
            let image = Image { height, width, colorspace: 3, encoded_image_string: png };
            Value { tag: format!("foreground/{name}"), number: None, image: Some(image) }
        }));
        // In one call, so that a killed process leaves no half record but on a full disk.
        let bytes = framed(&event(record.step, Some(Values { value })));
        self.file.write_all(&bytes).map_err(|error| Error::io("write", &self.path, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Scored;

    fn record(step: u32) -> Record {
        let scored = Scored {
            foreground_iou: Some(0.5),
            mean_iou: None,
            pixel_error: 0.25,
            validation_loss: Some(0.75),
            ap50: Some(0.125),
            mean_ap: None,
        };
        let scored = step.is_multiple_of(2).then_some(scored);
        Record { step, loss: 0.5, learning_rate: 0.25, grad_norm: Some(2.0), scaling: None, scored }
    }

    fn events(path: &Path) -> Vec<Event> {
        let bytes = fs::read(path).unwrap();
        let (mut events, mut rest) = (Vec::new(), &bytes[..]);
        while let Some((event, after)) = first(rest) {
            events.push(event);
            rest = after;
        }
        assert!(rest.is_empty(), "{} bytes are no records", rest.len());
        events
    }

    #[test]
    fn a_record_is_laid_out_and_checked_as_tensorflow_does() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283, "RFC 3720");
        // As TensorFlow writes an event of wall time 1, step 2 and version "a".
        let event = Event { wall_time: 1.0, step: 2, file_version: Some("a".into()), summary: None };
        let data = [0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 2, 0x1a, 1, b'a'];
        let bytes = framed(&event);
        assert_eq!((&bytes[..8], &bytes[12..26], bytes.len()), (&[14, 0, 0, 0, 0, 0, 0, 0][..], &data[..], 30));
        assert!(first(&bytes).is_some() && first(&bytes[..29]).is_none());
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 4;
            assert!(first(&damaged).is_none(), "byte {place}");
        }
    }

    #[test]
    fn scalars_and_pictures_come_back_and_no_step_is_there_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events.out.tfevents.test");
        let mut file = Events::open(&path, 0).unwrap();
        let shown = || vec![Shown { name: "a".into(), size: [3, 4], png: vec![1, 2, 3] }];
        for step in 1..=5 {
            file.append(&record(step), &mut if step == 4 { shown() } else { Vec::new() }).unwrap();
        }
        // A step that was cut off, and steps after the checkpoint, come again.
        file.file.write_all(&[9; 13]).unwrap();
        drop(file);
        let mut file = Events::open(&path, 3).unwrap();
        for step in 4..=6 {
            file.append(&record(step), &mut if step == 4 { shown() } else { Vec::new() }).unwrap();
        }
        let events = events(&path);
        assert_eq!(events.iter().map(|event| event.step).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6]);
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        let tags = |step: usize| -> Vec<(&str, Option<f32>)> {
            let values = &events[step].summary.as_ref().unwrap().value;
            values.iter().map(|value| (value.tag.as_str(), value.number)).collect()
        };
        let plain = [("loss/training", Some(0.5)), ("learning_rate", Some(0.25)), ("gradient_norm", Some(2.0))];
        assert_eq!(tags(3), plain);
        let scored = [
            ("loss/validation", Some(0.75)),
            ("validation/foreground_iou", Some(0.5)),
            ("validation/pixel_error", Some(0.25)),
            ("validation/ap50", Some(0.125)),
        ];
        assert_eq!(tags(2), [&plain[..], &scored].concat());
        assert_eq!(tags(4), [&plain[..], &scored, &[("foreground/a", None)]].concat());
        let image = events[4].summary.as_ref().unwrap().value.last().unwrap().image.as_ref().unwrap();
        let Image { height, width, colorspace, encoded_image_string } = image;
        assert_eq!((*height, *width, *colorspace, &encoded_image_string[..]), (3, 4, 3, &[1, 2, 3][..]));
        Events::open(&path, 0).unwrap();
        assert_eq!(self::events(&path).len(), 1, "a new run begins a new file");
    }
}

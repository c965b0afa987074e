//! How the values in label files become classes. The choice is printed and recorded, never silent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::survey::Summary;
use super::{LabelKind, Options};
use crate::data::finding::{Code, Finding};
use crate::data::label::LabelMap;
use crate::data::raster::Page;
use crate::data::sample::IGNORE;
use crate::error::{Error, Result};

/// More values than this are not taken for class numbers unasked: they look like the numbers of cells.
const MOST_CLASSES_UNASKED: usize = 32;

/// As many as an 8-bit mask can hold.
const MOST_CLASSES: u32 = 256;

/// The class of each label value. Written `0=0,128=1`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueMap(BTreeMap<u32, u32>);

/// How label values become classes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mapping {
    /// 0 is class 0, every other value class 1.
    Instances,
    /// Values have the class that the map gives them.
    Values {
        /// The class of each value.
        map: ValueMap,
        /// The value of pixels that neither train nor count.
        ignore: Option<u32>,
    },
}

impl FromStr for ValueMap {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = |problem: &str| {
            Error::Usage(format!("the map `{text}` {problem}; write VALUE=CLASS pairs such as 0=0,128=1,255=2"))
        };
        let mut map = BTreeMap::new();
        for part in text.split(',') {
            let (value, class) = part.split_once('=').ok_or_else(|| wrong(&format!("has no `=` in `{part}`")))?;
            let number = |digits: &str| {
                digits.trim().parse().map_err(|_| wrong(&format!("has `{digits}` where a number belongs")))
            };
            if map.insert(number(value)?, number(class)?).is_some() {
                return Err(wrong(&format!("has the value {} twice", value.trim())));
            }
        }
        let classes: BTreeSet<u32> = map.values().copied().collect();
        if !classes.iter().copied().eq(0..classes.len() as u32) {
            let found: Vec<String> = classes.iter().map(ToString::to_string).collect();
            return Err(wrong(&format!("has the classes {}, which do not count up from 0", found.join(", "))));
        }
        Ok(Self(map))
    }
}

impl fmt::Display for ValueMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> = self.0.iter().map(|(value, class)| format!("{value}={class}")).collect();
        f.write_str(&pairs.join(","))
    }
}

impl fmt::Display for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Instances => f.write_str("0 → 0, any other → 1"),
            Self::Values { map: ValueMap(map), ignore } => {
                let count = map.len();
                if count > 8 && map.iter().all(|(value, class)| value == class) {
                    write!(f, "0 to {} are class numbers", count - 1)?;
                } else {
                    let pairs: Vec<String> = map.iter().map(|(value, class)| format!("{value} → {class}")).collect();
                    f.write_str(&pairs.join(", "))?;
                }
                ignore.map_or(Ok(()), |value| write!(f, ", {value} ignored"))
            }
        }
    }
}

impl Mapping {
    /// How many classes there are, background included.
    pub fn class_count(&self) -> usize {
        match self {
            Self::Instances => 2,
            Self::Values { map, .. } => map.0.values().max().map_or(0, |&class| class as usize + 1),
        }
    }

    /// The class of a label value or [`IGNORE`]; `None` for a value that has no class.
    pub fn class_of(&self, value: u32) -> Option<u32> {
        match self {
            Self::Instances => Some(u32::from(value != 0)),
            Self::Values { ignore, .. } if *ignore == Some(value) => Some(IGNORE),
            Self::Values { map, .. } => map.0.get(&value).copied(),
        }
    }

    /// Replaces label values by classes.
    pub(super) fn apply(&self, page: &Page, labels: &mut LabelMap) -> Result<()> {
        let width = labels.width;
        for (pixel, value) in labels.values.iter_mut().enumerate() {
            let (x, y) = (pixel % width, pixel / width);
            *value = self.class_of(*value).ok_or_else(|| self.unmapped(page, *value, [x, y], 1).into_error())?;
        }
        Ok(())
    }

    /// The finding for values that have no class, so many in a file: the first of them, and column and row of its first pixel.
    pub(super) fn unmapped(&self, page: &Page, value: u32, [x, y]: [usize; 2], count: usize) -> Finding {
        let others = if count > 1 { format!(", nor are {} more values", count - 1) } else { String::new() };
        let below = format!("a class below {}", self.class_count());
        let ignore = format!("leave such pixels out with --ignore={value}");
        let (what, fix) = match self {
            Self::Values { map, .. } if !map.is_identity() || map.0.len() == 1 => (
                format!("in the map {map}"),
                if count > 1 { "add them there".into() } else { format!("add it there, or {ignore}") },
            ),
            _ if count > 1 => {
                (below, "correct the mask, raise --classes, or give each value a class with --map".into())
            }
            _ => (below, format!("correct the mask, raise --classes, or {ignore}")),
        };
        let text = format!("the label value {value} at x={x}, y={y} is not {what}{others}");
        Finding::new(Code::UnmappedValue, page, text, fix).at(value, [x, y])
    }
}

impl ValueMap {
    fn identity(classes: u32) -> Self {
        Self((0..classes).map(|class| (class, class)).collect())
    }

    fn is_identity(&self) -> bool {
        self.0.iter().all(|(value, class)| value == class)
    }
}

/// The mapping that the options ask for, or the one that the values leave no doubt about.
pub(super) fn choose_mapping(
    folder: &Path,
    kind: LabelKind,
    summaries: &[Summary],
    options: &Options,
) -> Result<Mapping> {
    Ok(match (kind, &options.map, options.classes) {
        (LabelKind::Instances, ..) => Mapping::Instances,
        (_, Some(map), _) => Mapping::Values { map: map.clone(), ignore: options.ignore },
        (_, None, Some(classes)) => Mapping::Values { map: ValueMap::identity(classes), ignore: options.ignore },
        (_, None, None) => evident_mapping(folder, summaries, options.ignore)?,
    })
}

/// Refuses options that contradict each other or the kind of truth.
pub(super) fn refuse_contradictions(folder: &Path, kind: LabelKind, options: &Options) -> Result<()> {
    if options.map.is_some() && options.classes.is_some() {
        return Err(Error::Usage("--map and --classes both say what label values mean; give one".into()));
    }
    let meanings =
        options.map.is_some() || options.ignore.is_some() || options.classes.is_some_and(|classes| classes != 2);
    if kind == LabelKind::Instances && meanings {
        return Err(Error::Usage(format!(
            "{}: instances/ holds cell numbers, which make two classes; --map, --classes and --ignore are for masks/",
            folder.display()
        )));
    }
    match options.classes {
        Some(classes) if !(2..=MOST_CLASSES).contains(&classes) => {
            let problem =
                format!("--classes={classes}: give a number from 2 (background and another) to {MOST_CLASSES}");
            Err(Error::Usage(problem))
        }
        _ => Ok(()),
    }
}

/// 0 and 255 are background and foreground; 0, 1, 2 … without a gap are class numbers; anything else is refused.
fn evident_mapping(folder: &Path, summaries: &[Summary], ignore: Option<u32>) -> Result<Mapping> {
    let values: BTreeSet<u32> =
        summaries.iter().flat_map(|summary| summary.values.keys()).copied().filter(|&v| Some(v) != ignore).collect();
    let count = values.len() as u32;
    let consecutive = |values: &BTreeSet<u32>| values.iter().copied().eq(0..values.len() as u32);
    let map = if values.len() == 1 || values.iter().eq(&[0, 255]) {
        // What a single value means is a guess, and refused later, as a data set of one class.
        ValueMap(values.iter().copied().zip(0..count).collect())
    } else if consecutive(&values) && values.len() <= MOST_CLASSES_UNASKED {
        ValueMap::identity(count)
    } else {
        let masks = Page::from(folder.join("masks").as_path());
        let shown: Vec<String> = values.iter().take(10).map(ToString::to_string).collect();
        let shown = shown.join(", ");
        if values.len() > MOST_CLASSES_UNASKED {
            let text = format!("{count} different label values ({shown} …)");
            let fix =
                "if they number cells, rename the folder to instances; if they are class numbers, give --classes=N";
            return Err(Finding::new(Code::UnclearValues, &masks, text, fix).of_value(count).into_error());
        }
        let without_last: BTreeSet<u32> = values.iter().copied().take(values.len() - 1).collect();
        let last = values.last().copied().unwrap_or(0);
        let leave_out = match without_last.len() {
            2.. if consecutive(&without_last) => format!(", or if {last} marks pixels to leave out, --ignore={last}"),
            _ => String::new(),
        };
        let example: Vec<String> = values.iter().zip(0..).map(|(value, class)| format!("{value}={class}")).collect();
        let text = format!("the label values are {shown}, from which classes cannot be told");
        let fix = format!("say what they mean, such as --map={}{leave_out}", example.join(","));
        return Err(Finding::new(Code::UnclearValues, &masks, text, fix).of_value(shown).into_error());
    };
    Ok(Mapping::Values { map, ignore })
}

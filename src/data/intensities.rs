//! How the values of an image become what a network is given.

use super::image::{Image, white};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What is made of an image's values before a network sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Intensities {
    /// Each channel of each image has mean 0 and standard deviation 1: [`Image::normalise`]. What training here gives networks.
    #[default]
    Standard,
    /// From 0 to 1, the largest value that the image's bits could hold; floating point and integers of more than 16 bits stay as they are. What milesial/Pytorch-UNet gives them.
    Unit,
}

impl Intensities {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Standard, Self::Unit];

    /// What it is called in files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Unit => "unit",
        }
    }

    /// In words, for the metadata of exported networks.
    pub(crate) fn sentence(self) -> &'static str {
        match self {
            Self::Standard => {
                "each channel of each image by itself: (value - mean) / standard deviation, over the whole image"
            }
            Self::Unit => "value / largest possible value: 255 for images of 8 bits, 65535 for 16",
        }
    }

    /// Prepares an image as it was read.
    ///
    /// # Errors
    /// [`Error::Usage`] for [`Intensities::Unit`] of an image that says it has 0 bits.
    pub fn prepare(self, image: &mut Image) -> Result<()> {
        match self {
            Self::Standard => image.normalise(),
            Self::Unit if image.bit_depth == 0 => {
                let problem =
                    "what is the largest value of an image of 0 bits? Give 8 or 16, or 32 for values from 0 to 1";
                return Err(Error::Usage(problem.into()));
            }
            Self::Unit => {
                let white = white(image.bit_depth);
                image.pixels.iter_mut().for_each(|value| *value /= white);
            }
        }
        Ok(())
    }
}

impl fmt::Display for Intensities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Intensities {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|intensities| intensities.name() == text);
        found.ok_or_else(|| format!("{text:?} is neither standard nor unit"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_the_largest_value_that_the_bits_could_hold() {
        for (bit_depth, pixels, expected) in [
            (8, vec![0.0, 51.0, 255.0], vec![0.0, 0.2, 1.0]),
            (16, vec![0.0, 13_107.0], vec![0.0, 0.2]),
            (1, vec![1.0], vec![1.0]),
            (32, vec![-3.5], vec![-3.5]),
        ] {
            let mut image =
                Image { height: 1, width: pixels.len(), channels: 1, bit_depth, pixels, alpha_dropped: false };
            Intensities::Unit.prepare(&mut image).unwrap();
            assert_eq!(image.pixels, expected);
            image.bit_depth = 0;
            let message = Intensities::Unit.prepare(&mut image).unwrap_err().to_string();
            assert!(message.contains("0 bits") && image.pixels == expected, "{message}");
        }
    }

    #[test]
    fn names_come_back() {
        for intensities in Intensities::ALL {
            assert_eq!(intensities.name().parse(), Ok(intensities));
            assert_eq!(serde_json::to_string(&intensities).unwrap(), format!("\"{intensities}\""));
        }
        assert!("imagenet".parse::<Intensities>().unwrap_err().contains("standard nor unit"));
    }
}

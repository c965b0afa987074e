//! Which U-Net.

use crate::data::Intensities;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The published networks that a [`UNet`](super::UNet) may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Variant {
    /// That of the paper's figure 1 (`models/paper.rs`).
    #[default]
    Unet,
    /// That of the authors' release, `phseg_v5` (`models/release.rs`).
    UnetRelease,
    /// milesial/Pytorch-UNet with transposed convolutions (`models/milesial.rs`).
    Milesial,
    /// The same with bilinear upsampling.
    MilesialBilinear,
    /// mateuszbuda/brain-segmentation-pytorch (`models/brain.rs`).
    Brain,
    /// guanfuchen/semseg (`models/semseg.rs`).
    Semseg,
}

/// How the size of the scores follows from that of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Convolutions without padding shrink it, and every pooling must see an even side.
    Shrinking,
    /// They are alike, and every pooling must see an even side.
    Padded,
    /// They are alike, since the scores are resized to it; whatever survives the convolutions is accepted.
    Resized,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Unet, Self::UnetRelease, Self::Milesial, Self::MilesialBilinear, Self::Brain, Self::Semseg];

    /// What it is called in configurations, files and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unet => "unet",
            Self::UnetRelease => "unet-release",
            Self::Milesial => "milesial",
            Self::MilesialBilinear => "milesial-bilinear",
            Self::Brain => "brain",
            Self::Semseg => "semseg",
        }
    }

    pub(super) fn sizes(self) -> Sizes {
        match self {
            Self::Unet | Self::UnetRelease => Sizes::Shrinking,
            Self::Milesial | Self::MilesialBilinear | Self::Brain => Sizes::Padded,
            Self::Semseg => Sizes::Resized,
        }
    }

    /// What its authors' program gives it of images, as near as there is one.
    pub(crate) fn intensities(self) -> Intensities {
        match self {
            Self::Milesial | Self::MilesialBilinear => Intensities::Unit,
            Self::Unet | Self::UnetRelease | Self::Brain | Self::Semseg => Intensities::Standard,
        }
    }

    /// Whether it has places for dropout.
    pub(super) fn has_dropout(self) -> bool {
        matches!(self, Self::Unet | Self::UnetRelease)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|variant| variant.name() == text).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("there is no network {text:?}; there are {names}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_files_and_come_back() {
        for variant in Variant::ALL {
            assert_eq!(variant.name().parse(), Ok(variant));
            assert_eq!(serde_json::to_string(&variant).unwrap(), format!("\"{variant}\""));
        }
        let error = "vnet".parse::<Variant>().unwrap_err();
        assert!(error.contains("\"vnet\"") && error.contains("unet, unet-release, milesial"), "{error}");
    }
}

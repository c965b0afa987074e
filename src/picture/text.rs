//! Headings on pictures: capital letters, digits and a few signs, drawn as five by seven dots, so that a picture explains
//! itself without a font file.

use super::Picture;

/// Dots of a character.
const WIDTH: usize = 5;
const HEIGHT: usize = 7;

/// From one character to the next.
const ADVANCE: usize = WIDTH + 1;

/// Rows of a heading: the characters with some room around them.
const STRIP: usize = HEIGHT + 8;

const PAPER: [u8; 3] = [235; 3];
const INK: [u8; 3] = [40; 3];

/// The dots of a character, rows from the top, the leftmost dot in the highest of five bits; a box for what is unknown.
fn glyph(character: char) -> [u8; HEIGHT] {
    match character.to_ascii_uppercase() {
        ' ' => [0; HEIGHT],
        'A' => [0b01110, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'B' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10001, 0b10001, 0b11110],
        'C' => [0b01110, 0b10001, 0b10000, 0b10000, 0b10000, 0b10001, 0b01110],
        'D' => [0b11110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11110],
        'E' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b11111],
        'F' => [0b11111, 0b10000, 0b10000, 0b11110, 0b10000, 0b10000, 0b10000],
        'G' => [0b01110, 0b10001, 0b10000, 0b10111, 0b10001, 0b10001, 0b01111],
        'H' => [0b10001, 0b10001, 0b10001, 0b11111, 0b10001, 0b10001, 0b10001],
        'I' => [0b01110, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        'J' => [0b00111, 0b00010, 0b00010, 0b00010, 0b00010, 0b10010, 0b01100],
        'K' => [0b10001, 0b10010, 0b10100, 0b11000, 0b10100, 0b10010, 0b10001],
        'L' => [0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b10000, 0b11111],
        'M' => [0b10001, 0b11011, 0b10101, 0b10101, 0b10001, 0b10001, 0b10001],
        'N' => [0b10001, 0b11001, 0b10101, 0b10011, 0b10001, 0b10001, 0b10001],
        'O' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'P' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10000, 0b10000, 0b10000],
        'Q' => [0b01110, 0b10001, 0b10001, 0b10001, 0b10101, 0b10010, 0b01101],
        'R' => [0b11110, 0b10001, 0b10001, 0b11110, 0b10100, 0b10010, 0b10001],
        'S' => [0b01111, 0b10000, 0b10000, 0b01110, 0b00001, 0b00001, 0b11110],
        'T' => [0b11111, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100, 0b00100],
        'U' => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01110],
        'V' => [0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b01010, 0b00100],
        'W' => [0b10001, 0b10001, 0b10001, 0b10101, 0b10101, 0b11011, 0b10001],
        'X' => [0b10001, 0b10001, 0b01010, 0b00100, 0b01010, 0b10001, 0b10001],
        'Y' => [0b10001, 0b10001, 0b01010, 0b00100, 0b00100, 0b00100, 0b00100],
        'Z' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b11111],
        '0' => [0b01110, 0b10001, 0b10011, 0b10101, 0b11001, 0b10001, 0b01110],
        '1' => [0b00100, 0b01100, 0b00100, 0b00100, 0b00100, 0b00100, 0b01110],
        '2' => [0b01110, 0b10001, 0b00001, 0b00110, 0b01000, 0b10000, 0b11111],
        '3' => [0b11110, 0b00001, 0b00001, 0b01110, 0b00001, 0b00001, 0b11110],
        '4' => [0b00010, 0b00110, 0b01010, 0b10010, 0b11111, 0b00010, 0b00010],
        '5' => [0b11111, 0b10000, 0b11110, 0b00001, 0b00001, 0b10001, 0b01110],
        '6' => [0b00110, 0b01000, 0b10000, 0b11110, 0b10001, 0b10001, 0b01110],
        '7' => [0b11111, 0b00001, 0b00010, 0b00100, 0b01000, 0b01000, 0b01000],
        '8' => [0b01110, 0b10001, 0b10001, 0b01110, 0b10001, 0b10001, 0b01110],
        '9' => [0b01110, 0b10001, 0b10001, 0b01111, 0b00001, 0b00010, 0b01100],
        '.' => [0, 0, 0, 0, 0, 0b01100, 0b01100],
        ',' => [0, 0, 0, 0, 0b01100, 0b00100, 0b01000],
        ':' => [0, 0b01100, 0b01100, 0, 0b01100, 0b01100, 0],
        '-' | '–' => [0, 0, 0, 0b11111, 0, 0, 0],
        '_' => [0, 0, 0, 0, 0, 0, 0b11111],
        '+' => [0, 0b00100, 0b00100, 0b11111, 0b00100, 0b00100, 0],
        '=' => [0, 0, 0b11111, 0, 0b11111, 0, 0],
        '/' => [0b00001, 0b00001, 0b00010, 0b00100, 0b01000, 0b10000, 0b10000],
        '%' => [0b11001, 0b11001, 0b00010, 0b00100, 0b01000, 0b10011, 0b10011],
        '(' => [0b00010, 0b00100, 0b01000, 0b01000, 0b01000, 0b00100, 0b00010],
        ')' => [0b01000, 0b00100, 0b00010, 0b00010, 0b00010, 0b00100, 0b01000],
        _ => [0b11111, 0b10001, 0b10001, 0b10001, 0b10001, 0b10001, 0b11111],
    }
}

impl Picture {
    /// The picture under a strip with a heading, in capitals; as much of it as fits the width.
    #[must_use]
    pub fn titled(&self, heading: &str) -> Self {
        let mut rgb = PAPER.repeat(STRIP * self.width);
        let fitting = (self.width / ADVANCE).min(heading.chars().count());
        for (index, character) in heading.chars().take(fitting).enumerate() {
            for (row, dots) in glyph(character).into_iter().enumerate() {
                for column in (0..WIDTH).filter(|column| dots >> (WIDTH - 1 - column) & 1 == 1) {
                    let (y, x) = (row + (STRIP - HEIGHT) / 2, index * ADVANCE + column);
                    rgb[3 * (y * self.width + x)..][..3].copy_from_slice(&INK);
                }
            }
        }
        rgb.extend(&self.rgb);
        Self { height: STRIP + self.height, width: self.width, rgb }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heading_stands_above_and_the_picture_is_untouched() {
        let picture = Picture { height: 2, width: 20, rgb: vec![7; 120] };
        let titled = picture.titled("Il");
        assert_eq!((titled.height, titled.width), (STRIP + 2, 20));
        assert_eq!(titled.rgb[3 * STRIP * 20..], picture.rgb);
        let dark = |x: usize| (0..STRIP).filter(|y| titled.rgb[3 * (y * 20 + x)] == INK[0]).count();
        assert_eq!((0..12).map(dark).collect::<Vec<_>>(), [0, 2, 7, 2, 0, 0, 7, 1, 1, 1, 1, 0]);
    }

    #[test]
    fn a_heading_that_is_too_long_is_cut_between_characters() {
        let picture = Picture { height: 1, width: 13, rgb: vec![7; 39] };
        assert_eq!(picture.titled("abc").rgb, picture.titled("ab").rgb);
        assert!(Picture { height: 0, width: 0, rgb: vec![] }.titled("abc").rgb.is_empty());
    }

    #[test]
    fn characters_differ() {
        let known: Vec<char> = ('A'..='Z').chain('0'..='9').chain(" .,:-_+=/%()".chars()).collect();
        let distinct: std::collections::HashSet<_> = known.iter().map(|&character| glyph(character)).collect();
        assert_eq!(distinct.len(), known.len());
        assert!(!distinct.contains(&glyph('?')) && glyph('a') == glyph('A'));
    }
}

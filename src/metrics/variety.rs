//! Whether predictions tell anything apart.

/// Standard deviation of the differences between scores, in nats, below which they say the same everywhere: no probability differs by a
/// thousandth from one pixel to another.
pub const CONSTANT_SCORES: f64 = 1e-3;

/// What many predictions of one network have in common: which classes they have, and how much their scores vary over the pixels.
#[derive(Clone, Debug, PartialEq)]
pub struct Variety {
    /// Pixels by predicted class.
    pixels: Vec<u64>,
    /// For each class c the sums of `z_c − z_0` and of its square over the pixels.
    sums: Vec<[f64; 2]>,
}

impl Variety {
    /// No pixels yet.
    pub fn new(classes: usize) -> Self {
        Self { pixels: vec![0; classes], sums: vec![[0.0; 2]; classes] }
    }

    /// Adds the pixels of a prediction: scores `[pixels, classes]`, and the class of each pixel.
    pub fn add(&mut self, logits: &[f32], labels: &[u32]) {
        for (logits, &label) in logits.chunks(self.pixels.len().max(1)).zip(labels) {
            if let Some(pixels) = self.pixels.get_mut(label as usize) {
                *pixels += 1;
            }
            for (sum, &logit) in self.sums.iter_mut().zip(logits) {
                let difference = f64::from(logit) - f64::from(logits[0]);
                sum[0] += difference;
                sum[1] += difference * difference;
            }
        }
    }

    /// The class that every pixel was given, if it is only one.
    pub fn only_class(&self) -> Option<u32> {
        let mut given = (0..).zip(&self.pixels).filter(|&(_, &pixels)| pixels > 0);
        given.next().filter(|_| given.next().is_none()).map(|(class, _)| class)
    }

    /// The largest standard deviation, over the pixels, of a difference between the scores of two classes, one of them class 0.
    pub fn deviation(&self) -> f64 {
        let count = self.pixels.iter().sum::<u64>().max(1) as f64;
        let deviation = |&[sum, squares]: &[f64; 2]| {
            let mean = sum / count;
            (squares / count - mean * mean).max(0.0).sqrt()
        };
        self.sums.iter().map(deviation).fold(0.0, f64::max)
    }

    /// For predictions of one class only, what that means.
    pub fn remark(&self) -> Option<String> {
        let (class, deviation) = (self.only_class()?, self.deviation());
        let meaning = if deviation < CONSTANT_SCORES {
            format!(
                "and the scores are the same everywhere (standard deviation {deviation:.1e}): this network ignores the image; the \
                 summary of its training says why"
            )
        } else {
            format!(
                "though the scores do vary (standard deviation {deviation:.2}): if there is more to see, is this the kind of image \
                 that the network was trained on, at the same scale, bright on dark or dark on bright?"
            )
        };
        Some(format!("every pixel is predicted as class {class}, {meaning}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_class_everywhere_is_remarked_on_and_two_are_not() {
        let mut variety = Variety::new(3);
        assert_eq!((variety.only_class(), variety.remark()), (None, None), "nothing was predicted");
        variety.add(&[1.0, 3.0, 0.0, 5.0, 7.0, 1.0], &[1, 1]);
        assert_eq!((variety.only_class(), variety.deviation()), (Some(1), 1.5));
        assert!(variety.remark().unwrap().contains("class 1, though the scores do vary (standard deviation 1.50)"));
        variety.add(&[9.0, 0.0, 0.0], &[0]);
        assert_eq!((variety.only_class(), variety.remark()), (None, None));
    }

    #[test]
    fn scores_that_differ_by_rounding_only_are_constant() {
        let mut variety = Variety::new(2);
        for pixel in 0..1000 {
            variety.add(&[100.0 + pixel as f32 * 1e-6, 50.0], &[0]);
        }
        assert!(variety.deviation() < CONSTANT_SCORES, "{}", variety.deviation());
        assert!(variety.remark().unwrap().contains("ignores the image"));
    }
}

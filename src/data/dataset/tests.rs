//! Every refusal and every choice, on small files in a temporary folder.

use std::fs;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use png::{BitDepth, ColorType, Encoder};
use tempfile::TempDir;
use tiff::encoder::TiffEncoder;
use tiff::encoder::colortype::Gray8;

use super::*;
use crate::data::raster::{write_grey8, write_grey16, write_indexed, write_rgb8};
use crate::data::{Code, Finding, Severity};

/// A data set of 4 x 2 pixels in a folder of its own.
struct Scene(TempDir);

impl Scene {
    fn new(folders: &[&str]) -> Self {
        let scene = Self(tempfile::tempdir().unwrap());
        for folder in folders {
            fs::create_dir_all(scene.path(folder)).unwrap();
        }
        scene
    }

    /// Images a, b, … of different content with these masks.
    fn with_masks(masks: &[[u8; 8]]) -> Self {
        let scene = Self::new(&["images", "masks"]);
        for (index, mask) in masks.iter().enumerate() {
            let name = char::from(b'a' + index as u8);
            scene.image(&format!("images/{name}.png"), index as u8);
            write_grey8(&scene.path(&format!("masks/{name}.png")), 2, 4, mask).unwrap();
        }
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn image(&self, name: &str, first: u8) {
        write_grey8(&self.path(name), 2, 4, &[first, 10, 20, 30, 40, 50, 60, 70]).unwrap();
    }

    fn open(&self, options: &Options) -> Result<Dataset> {
        Dataset::open(self.0.path(), options)
    }

    fn inspect(&self, options: &Options) -> Inspection {
        Inspection::new(self.0.path(), options).unwrap()
    }

    fn survey(&self, options: &Options) -> Survey {
        self.open(options).unwrap().survey().clone()
    }

    #[track_caller]
    fn refused(&self, options: &Options, expected: &[&str]) {
        let message = self.open(options).unwrap_err().to_string();
        for part in expected {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    }
}

fn unasked() -> Options {
    Options::default()
}

fn map(text: &str) -> Options {
    Options { map: Some(text.parse().unwrap()), ..unasked() }
}

const BINARY: [u8; 8] = [0, 0, 0, 255, 255, 0, 0, 0];

#[test]
fn a_folder_that_is_no_data_set_is_told_what_one_looks_like() {
    let scene = Scene::new(&[]);
    let message = Dataset::open(scene.path("nowhere"), &unasked()).unwrap_err().to_string();
    assert!(message.contains("nowhere: there is no such folder"), "{message}");
    scene.refused(&unasked(), &["the folder is empty; a data set has the folders images/ and masks/"]);
    fs::create_dir(scene.path("pictures")).unwrap();
    scene.refused(&unasked(), &["no folder images/ in it, found pictures", "a data set has the folders"]);
    Scene::new(&["train/images"]).refused(&unasked(), &["there is one in train/; did you mean ", "train?"]);
    Scene::new(&["images"]).refused(&unasked(), &["images/ has no truth beside it"]);
    Scene::new(&["images", "masks", "instances"]).refused(&unasked(), &["both masks/ and instances/ are there"]);
    Scene::new(&["images", "masks"]).refused(&unasked(), &["images: no images; put some there (png, tif, tiff)"]);
}

#[test]
fn every_file_without_a_partner_is_named() {
    let scene = Scene::with_masks(&[BINARY]);
    scene.image("images/x.png", 0);
    scene.image("images/y.png", 0);
    scene.image("masks/z.png", 0);
    let errors = scene.inspect(&unasked()).errors();
    let found: Vec<(Code, &Path)> = errors.iter().map(|error| (error.code, error.file.as_path())).collect();
    let paths = ["images/x.png", "images/y.png", "masks/z.png"].map(|name| scene.path(name));
    assert_eq!(found, paths.each_ref().map(|path| (Code::Unpaired, path.as_path())));
    assert!(errors[2].to_string().contains("no file in images/ has its name; image and truth need the same name"));
    let more = "errors besides: 2, which `tilewise check-data ";
    scene.refused(&unasked(), &["x.png: no file in masks/ has its name; image and truth need the same name", more]);
}

#[test]
fn a_suffix_of_the_masks_is_noticed_and_accepted() {
    let scene = Scene::new(&["images", "masks"]);
    for name in ["a", "b"] {
        scene.image(&format!("images/{name}.png"), 0);
        write_grey8(&scene.path(&format!("masks/{name}_mask.png")), 2, 4, &BINARY).unwrap();
    }
    scene.refused(&unasked(), &["errors besides: 3", "say so with --mask-suffix=_mask"]);
    let dataset = scene.open(&Options { mask_suffix: "_mask".into(), ..unasked() }).unwrap();
    assert_eq!(dataset.pairs().iter().map(|pair| pair.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_is_not_an_image_is_named_and_what_means_nothing_is_passed_over() {
    let scene = Scene::with_masks(&[BINARY]);
    for name in [".DS_Store", "README.txt", "Thumbs.db"] {
        fs::write(scene.path("images").join(name), "x").unwrap();
    }
    assert_eq!(scene.survey(&unasked()).images, 1);
    fs::write(scene.path("images/b.jpg"), "x").unwrap();
    scene.refused(&unasked(), &["b.jpg: not a supported image file (png, tif, tiff); convert or remove it"]);
    fs::remove_file(scene.path("images/b.jpg")).unwrap();
    fs::create_dir(scene.path("images/more")).unwrap();
    scene.refused(&unasked(), &["more: a folder among the image files"]);
    fs::remove_dir(scene.path("images/more")).unwrap();
    fs::write(scene.path("images/a.tif"), "x").unwrap();
    scene.refused(&unasked(), &["a.tif: has the name `a` like ", "a.png; names must differ"]);
}

#[test]
fn a_damaged_file_is_named() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    let whole = fs::read(scene.path("masks/b.png")).unwrap();
    fs::write(scene.path("masks/b.png"), &whole[..whole.len() / 2]).unwrap();
    scene.refused(&unasked(), &["b.png: damaged or incomplete PNG file"]);
}

#[test]
fn sizes_must_agree_within_a_pair() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    write_grey8(&scene.path("masks/b.png"), 4, 2, &BINARY).unwrap();
    scene.refused(&unasked(), &["b.png: 2 x 4 pixels, but its image ", "b.png has 4 x 2"]);
}

#[test]
fn channels_must_agree_between_images() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    write_rgb8(&scene.path("images/b.png"), 2, 4, &[7; 24]).unwrap();
    scene.refused(&unasked(), &["b.png: channels: 3, but ", "a.png has 1; save all images as grey or all as RGB"]);
}

#[test]
fn evident_values_are_mapped() {
    let survey = Scene::with_masks(&[BINARY]).survey(&unasked());
    assert_eq!(survey.mapping.to_string(), "0 → 0, 255 → 1");
    assert_eq!((survey.class_pixels, survey.label_values[&255]), (vec![6, 2], 2));
    let classes = Scene::with_masks(&[[0, 0, 1, 1, 0, 0, 0, 0], [0, 2, 0, 0, 0, 0, 0, 0]]).survey(&unasked());
    assert_eq!(classes.mapping.to_string(), "0 → 0, 1 → 1, 2 → 2");
    assert_eq!(classes.class_pixels, [13, 2, 1]);
    let ignored = Options { ignore: Some(255), ..unasked() };
    let survey = Scene::with_masks(&[[0, 1, 1, 255, 255, 255, 0, 0]]).survey(&ignored);
    assert_eq!(survey.mapping.to_string(), "0 → 0, 1 → 1, 255 ignored");
    assert_eq!((survey.class_pixels, survey.ignored_pixels), (vec![3, 2], 3));
}

#[test]
fn palette_indices_and_one_bit_values_are_classes() {
    for (colour, depth, data) in
        [(ColorType::Indexed, BitDepth::Two, [0b0001_1000, 0]), (ColorType::Grayscale, BitDepth::One, [0x70, 0x10])]
    {
        let scene = Scene::with_masks(&[BINARY]);
        let mut encoder = Encoder::new(fs::File::create(scene.path("masks/a.png")).unwrap(), 4, 2);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 200, 0, 0, 0, 200, 0]);
        }
        encoder.write_header().unwrap().write_image_data(&data).unwrap();
        let expected = if colour == ColorType::Indexed { vec![6, 1, 1] } else { vec![4, 4] };
        assert_eq!(scene.survey(&unasked()).class_pixels, expected);
    }
}

#[test]
fn values_that_leave_doubt_are_listed_with_the_options_that_end_it() {
    let scene = Scene::with_masks(&[[0, 0, 128, 128, 255, 0, 0, 0]]);
    let expected =
        ["masks: the label values are 0, 128, 255, from which classes cannot be told", "--map=0=0,128=1,255=2"];
    scene.refused(&unasked(), &expected);
    assert_eq!(scene.survey(&map("0=0,128=1,255=1")).class_pixels, [5, 3]);
    let scene = Scene::with_masks(&[[0, 0, 1, 1, 255, 0, 0, 0]]);
    scene.refused(&unasked(), &["or if 255 marks pixels to leave out, --ignore=255"]);
}

#[test]
fn cell_numbers_in_a_mask_folder_are_recognised() {
    let scene = Scene::new(&["images", "masks"]);
    let numbers: Vec<u16> = (0..64).collect();
    write_grey16(&scene.path("images/a.png"), 8, 8, &numbers).unwrap();
    write_grey16(&scene.path("masks/a.png"), 8, 8, &numbers).unwrap();
    scene.refused(&unasked(), &["64 different label values (0, 1, 2, ", "rename the folder to instances"]);
    assert_eq!(
        scene.survey(&Options { classes: Some(64), ..unasked() }).mapping.to_string(),
        "0 to 63 are class numbers"
    );
}

#[test]
fn a_value_without_a_class_is_named_with_its_file_and_first_pixel() {
    let scene = Scene::with_masks(&[[0, 1, 0, 1, 0, 1, 0, 1], [0, 1, 0, 0, 0, 0, 7, 7]]);
    let options = Options { classes: Some(3), ..unasked() };
    scene.refused(&options, &["b.png: the label value 7 at x=2, y=1 is not a class below 3", "--ignore=7"]);
    scene.refused(&map("0=0,1=1"), &["b.png: the label value 7 at x=2, y=1 is not a class below 2"]);
    scene.refused(&map("0=1,1=0"), &["the label value 7 at x=2, y=1 is not in the map 0=1,1=0; add it there"]);
}

#[test]
fn one_class_is_nothing_to_learn() {
    for mask in [[0; 8], [255; 8], [3; 8]] {
        let scene = Scene::with_masks(&[mask, mask]);
        scene.refused(&unasked(), &["all pixels that count are of one class", "there is nothing to learn"]);
        assert_eq!(scene.inspect(&unasked()).warnings().to_vec(), [], "what {mask:?} means is not known");
    }
    let scene = Scene::with_masks(&[BINARY]);
    scene.refused(
        &Options { ignore: Some(255), ..unasked() },
        &["(label values: 0, 255), so there is nothing to learn"],
    );
    let scene = Scene::new(&["images", "instances"]);
    scene.image("images/a.png", 0);
    write_grey16(&scene.path("instances/a.png"), 2, 4, &[0; 8]).unwrap();
    scene.refused(&unasked(), &["no image has a cell, so there is nothing to learn"]);
}

#[test]
fn instances_make_two_classes_and_take_no_mapping() {
    let scene = Scene::new(&["images", "instances"]);
    scene.image("images/a.png", 0);
    scene.image("images/b.png", 1);
    write_grey16(&scene.path("instances/a.png"), 2, 4, &[0, 0, 900, 900, 7, 0, 0, 0]).unwrap();
    write_grey16(&scene.path("instances/b.png"), 2, 4, &[0, 0, 0, 0, 7, 0, 0, 0]).unwrap();
    let dataset = scene.open(&unasked()).unwrap();
    let survey = dataset.survey();
    assert_eq!(survey.instances, Some(InstanceCounts { total: 3, min: 1, median: 2, max: 2 }));
    assert_eq!((survey.class_pixels.clone(), survey.mapping.to_string()), (vec![12, 4], "0 → 0, any other → 1".into()));
    let samples = dataset.read(&[1, 0]).unwrap();
    assert_eq!(samples[0].name, "b");
    assert_eq!(samples[1].instances().values, [0, 0, 900, 900, 7, 0, 0, 0]);
    assert_eq!(samples[1].classes().values, [0, 0, 1, 1, 1, 0, 0, 0]);
    scene.refused(&map("0=0,7=1"), &["--map, --classes and --ignore are for masks/"]);
}

#[test]
fn samples_have_their_classes() {
    let scene = Scene::with_masks(&[[0, 0, 128, 128, 255, 0, 0, 0]]);
    let dataset = scene.open(&Options { ignore: Some(255), ..map("0=0,128=1") }).unwrap();
    let samples = dataset.read(&[0]).unwrap();
    let ignored = crate::data::IGNORE;
    assert_eq!(samples[0].classes().values, [0, 0, 1, 1, ignored, 0, 0, 0]);
    let message = dataset.read(&[1]).unwrap_err().to_string();
    assert!(message.contains("there is no image 1; the last is 0"), "{message}");
}

#[test]
fn contradicting_options_and_maps_are_refused() {
    let scene = Scene::with_masks(&[BINARY]);
    scene.refused(&Options { classes: Some(2), ..map("0=0,255=1") }, &["--map and --classes both say"]);
    scene.refused(
        &Options { classes: Some(1), ..unasked() },
        &["--classes=1: give a number from 2 (background and another) to 256"],
    );
    for (text, expected) in [
        ("0=0,128", "has no `=` in `128`"),
        ("0=0,x=1", "has `x` where a number belongs"),
        ("0=0,0=1", "has the value 0 twice"),
        ("0=0,5=2", "has the classes 0, 2, which do not count up from 0"),
    ] {
        let message = text.parse::<ValueMap>().unwrap_err().to_string();
        assert!(message.contains(expected) && message.contains("such as 0=0,128=1,255=2"), "{message}");
    }
}

#[test]
fn the_survey_says_what_there_is() {
    let scene = Scene::with_masks(&[BINARY, [0; 8], BINARY]);
    scene.image("images/c.png", 0);
    let survey = scene.survey(&unasked());
    let text = survey.to_string();
    for line in [
        "images    3, 1 channel, 8-bit, values 0 to 70",
        "sizes     4 x 2 (3)",
        "labels    0 (20 pixels), 255 (4 pixels)",
        "mapping   0 → 0, 255 → 1",
        "class 0             20 pixels  83.33 %",
        "class 1              4 pixels  16.67 %",
        "to beat   class 0 everywhere: accuracy 0.8333, mean IoU 0.4167",
        "note      images with nothing but background: 1 of 3",
        "note      images that are there before: 1 of 3, such as ",
    ] {
        assert!(text.contains(line), "`{line}` is not in:\n{text}");
    }
    let json = serde_json::to_value(&survey).unwrap();
    assert_eq!((&json["images"], &json["class_pixels"][1]), (&3.into(), &4.into()));
}

#[test]
fn what_is_unusual_but_allowed_is_noted() {
    let scene = Scene::with_masks(&[BINARY; 2]);
    write_grey16(&scene.path("images/a.png"), 2, 4, &[9; 8]).unwrap();
    let notes = scene.survey(&map("0=0,255=1,9=2")).notes.join("\n");
    for part in [
        "16-bit images with only 8-bit values, which normalisation makes up for: 1",
        "images with the same value everywhere: 1 of 2, such as ",
        "no pixel is of class 2",
    ] {
        assert!(notes.contains(part), "`{part}` is not in: {notes}");
    }
}

#[test]
fn a_split_holds_out_a_share_that_depends_on_the_seed() {
    let dataset = Scene::with_masks(&[BINARY; 10]).open(&unasked()).unwrap();
    let (training, held_out) = dataset.split(0.2, 1).unwrap();
    assert_eq!((training.len(), held_out.len()), (8, 2));
    let mut all = [training, held_out.clone()].concat();
    all.sort_unstable();
    assert!(all.into_iter().eq(0..10));
    assert_eq!(dataset.split(0.2, 1).unwrap().1, held_out);
    assert!((2..9).any(|seed| dataset.split(0.2, seed).unwrap().1 != held_out));
    assert_eq!(dataset.split(0.001, 1).unwrap().1.len(), 1);
    assert!(dataset.split(1.0, 1).unwrap_err().to_string().contains("between 0 and 1, got 1"));
    let one = Scene::with_masks(&[BINARY]).open(&unasked()).unwrap();
    assert!(one.split(0.5, 1).unwrap_err().to_string().contains("one image cannot be divided"));
}

#[test]
fn images_without_content_are_refused() {
    let scene = Scene::with_masks(&[BINARY]);
    write_grey8(&scene.path("images/a.png"), 2, 4, &[7; 8]).unwrap();
    scene.refused(&unasked(), &["images", "every image has the same value everywhere"]);
}

#[test]
fn an_image_may_be_called_readme_or_license() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    for folder in ["images", "masks"] {
        fs::rename(scene.path(&format!("{folder}/a.png")), scene.path(&format!("{folder}/license-plate.png"))).unwrap();
        fs::write(scene.path(&format!("{folder}/LICENSE.txt")), "free").unwrap();
    }
    assert_eq!(scene.survey(&unasked()).images, 2);
}

/// A stack with a page for each first value.
fn write_stack(path: &Path, first: &[u8]) {
    let mut encoder = TiffEncoder::new(fs::File::create(path).unwrap()).unwrap();
    for &first in first {
        encoder.write_image::<Gray8>(4, 2, &[first, 0, 0, 255, 255, 0, 0, 0]).unwrap();
    }
}

#[test]
fn stacks_are_read_page_by_page() {
    let scene = Scene::with_masks(&[BINARY]);
    write_stack(&scene.path("images/stack.tif"), &[1, 2, 3]);
    write_stack(&scene.path("masks/stack.tif"), &[0, 255, 0]);
    let dataset = scene.open(&unasked()).unwrap();
    let names: Vec<&str> = dataset.pairs().iter().map(|pair| pair.name.as_str()).collect();
    assert_eq!(names, ["a", "stack-0000", "stack-0001", "stack-0002"]);
    let samples = dataset.read(&[3, 2]).unwrap();
    assert_eq!((samples[0].image.pixels[0], samples[1].image.pixels[0]), (3.0, 2.0));
    assert_eq!((samples[0].classes().values[0], samples[1].classes().values[0]), (0, 1));
    write_stack(&scene.path("masks/stack.tif"), &[0, 7, 0]);
    let options = map("0=0,255=1");
    scene.refused(&options, &["stack.tif: page 1: the label value 7 at x=0, y=0 is not in the map"]);
    write_stack(&scene.path("masks/stack.tif"), &[0, 255]);
    scene.refused(&unasked(), &["stack.tif: 2 page(s), but its image ", "stack.tif has 3; they must be equal"]);
}

#[test]
fn an_inspection_finds_everything_at_once() {
    let scene = Scene::with_masks(&[BINARY, [0, 9, 0, 0, 9, 0, 0, 0], [0, 0, 3, 0, 0, 0, 0, 0], BINARY]);
    scene.image("images/d.png", 0);
    scene.image("images/lonely.png", 0);
    fs::write(scene.path("images/b.jpg"), "x").unwrap();
    fs::write(scene.path("masks/c.png"), "x").unwrap();
    let inspection = scene.inspect(&map("0=0,255=1"));
    let errors: Vec<String> = inspection.errors().iter().map(ToString::to_string).collect();
    let found = errors.join("\n");
    for part in [
        "b.jpg: not a supported",
        "lonely.png: no file in masks/",
        "c.png: this is neither",
        "b.png: the label value 9 at x=1, y=0",
    ] {
        assert!(found.contains(part), "`{part}` is not in: {found}");
    }
    assert_eq!(errors.len(), 4, "{found}");
    let warnings = inspection.warnings();
    assert!(warnings.len() == 1 && warnings[0].text.starts_with("the same image as "), "{warnings:?}");
    assert_eq!(inspection.files().len(), 3);
    let mut copy = scene.inspect(&map("0=0,255=1"));
    copy.compare(&inspection);
    assert_eq!(copy.warnings().len(), 4, "every image is also in the other set");
}

#[test]
fn masks_of_one_class_are_pointed_out() {
    let masks = [BINARY, [0; 8], [255; 8], [9; 8]];
    let options = Options { ignore: Some(9), ..map("0=0,255=1") };
    let scene = Scene::with_masks(&masks);
    let inspection = scene.inspect(&options);
    let found: Vec<(Code, Option<&str>)> =
        inspection.warnings().iter().map(|warning| (warning.code, warning.value.as_deref())).collect();
    assert_eq!(
        found,
        [(Code::OnlyBackground, Some("0")), (Code::OneClass, Some("255")), (Code::AllIgnored, Some("9"))]
    );
}

#[test]
fn values_without_a_class_are_one_finding_a_file() {
    let scene = Scene::with_masks(&[[0, 9, 8, 0, 9, 0, 7, 0], [0, 1, 3, 0, 0, 0, 0, 0]]);
    for (options, fix) in
        [(map("0=1,1=0"), "add them there"), (map("0=0,1=1"), "correct the mask, raise --classes, or ")]
    {
        let errors = scene.inspect(&options).errors();
        assert_eq!(errors.len(), 2, "{errors:?}");
        let Finding { severity, code, value, pixel, text, .. } = &errors[0];
        assert_eq!(
            (*severity, *code, value.as_deref(), *pixel),
            (Severity::Error, Code::UnmappedValue, Some("9"), Some([1, 0]))
        );
        assert!(text.ends_with(", nor are 2 more values") && errors[0].fix.starts_with(fix), "{}", errors[0]);
        assert!(errors[1].fix.ends_with("--ignore=3"), "{}", errors[1]);
    }
    let scene = Scene::with_masks(&[[0, 9, 8, 0, 9, 0, 7, 0]]);
    let errors = scene.inspect(&map("0=0,1=1")).errors();
    assert_eq!(errors.len(), 1, "a lack of classes may come of the lack of a mapping: {errors:?}");
}

#[test]
fn a_finding_is_data_for_programs() {
    let scene = Scene::new(&["images", "masks"]);
    write_stack(&scene.path("images/stack.tif"), &[1, 2]);
    write_stack(&scene.path("masks/stack.tif"), &[0, 7]);
    let errors = scene.inspect(&map("0=0,255=1")).errors();
    let json = serde_json::to_value(&errors[0]).unwrap();
    let expected = serde_json::json!({
        "severity": "error",
        "code": "unmapped_value",
        "file": scene.path("masks/stack.tif"),
        "page": 1,
        "value": "7",
        "pixel": [0, 0],
        "fix": "add it there, or leave such pixels out with --ignore=7",
        "text": "the label value 7 at x=0, y=0 is not in the map 0=0,255=1",
    });
    assert_eq!(json, expected);
}

#[test]
fn numbers_of_which_there_are_too_many_are_no_cells() {
    let scene = Scene::new(&["images", "instances"]);
    let numbers: Vec<u16> = (0..=u16::MAX).collect();
    for folder in ["images", "instances"] {
        write_grey16(&scene.path(&format!("{folder}/a.png")), 256, 256, &numbers).unwrap();
    }
    scene.refused(
        &unasked(),
        &["a.png: 65536 different values; this is hardly a map of cells; give each cell one number"],
    );
}

#[test]
fn palettes_of_colours_are_pointed_out_and_those_of_greys_are_grey() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    let indices = [0, 1, 1, 0, 2, 2, 0, 0];
    for name in ["a", "b"] {
        let path = scene.path(&format!("images/{name}.png"));
        write_indexed(&path, 2, 4, &indices, &[[0; 3], [9, 8, 7], [200, 0, 0]]).unwrap();
    }
    let coloured = scene.inspect(&unasked());
    let files = coloured.files();
    assert_eq!((files[0].palette, files[0].channels, files[0].bit_depth), (true, 3, 8));
    assert_eq!(coloured.warnings().iter().filter(|warning| warning.code == Code::Palette).count(), 2);
    for name in ["a", "b"] {
        let path = scene.path(&format!("images/{name}.png"));
        write_indexed(&path, 2, 4, &indices, &[[0; 3], [9; 3], [200; 3]]).unwrap();
    }
    let grey = scene.inspect(&unasked());
    assert_eq!((grey.files()[0].palette, grey.files()[0].channels), (true, 1));
    assert!(grey.warnings().iter().all(|warning| warning.code == Code::Duplicate), "{:?}", grey.warnings());
}

#[test]
fn values_of_images_are_counted_by_file_and_in_all() {
    let scene = Scene::with_masks(&[BINARY, BINARY]);
    write_grey8(&scene.path("images/b.png"), 2, 4, &[255, 255, 250, 0, 0, 0, 0, 0]).unwrap();
    let inspection = scene.inspect(&unasked());
    let files = inspection.files();
    assert_eq!(files[0].histogram.counts.iter().sum::<u64>(), 8);
    assert_eq!((files[1].histogram.width, files[1].histogram.counts[15]), (16.0, 3));
    let survey = inspection.survey().unwrap();
    assert_eq!(survey.histogram.counts.iter().sum::<u64>(), 16);
    assert!(survey.to_string().contains("\nvalues    █"), "{survey}");
}

#[test]
fn surveys_and_samples_wait_for_their_share_of_the_memory() {
    let scene = Scene::with_masks(&[BINARY]);
    let dataset = &scene.open(&unasked()).unwrap();
    let pair = &dataset.pairs()[0];
    // Less than any image takes, so that they are decoded one at a time.
    let (budget, (sender, done)) = (Budget::new(1), channel());
    thread::scope(|scope| {
        budget.spend(1, || {
            let (budget, surveyed, read) = (&budget, sender.clone(), sender.clone());
            scope.spawn(move || surveyed.send(survey::summarise(pair, LabelKind::Masks, budget).map(drop)));
            scope.spawn(move || read.send(dataset.read_pair(pair, budget).map(drop)));
            assert!(
                done.recv_timeout(Duration::from_millis(200)).is_err(),
                "something was decoded without memory for it"
            );
        });
        for _ in 0..2 {
            done.recv().unwrap().unwrap();
        }
    });
}

//! What a user of `fit --real` relies on.

use super::*;

const INPUT: Input = Input { width: 32, height: 32, channels: 1 };

fn write(path: &Path, width: u32, height: u32, value: impl Fn(u32, u32) -> u8) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data = (0..width * height).map(|i| value(i % width, i / width)).collect();
    Image::new(width, height, 1, data).unwrap().write_png(path).unwrap();
}

/// One picture `scratch/1.png` of 320 x 160 pixels.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("scratch/1.png"), 320, 160, |_, _| 90);
    dir
}

fn error(dir: &Path) -> String {
    load(dir, INPUT, None).unwrap_err().to_string()
}

#[test]
fn a_mask_marks_exactly_and_a_thin_scratch_does_not_vanish() {
    let dir = folder();
    let mask = dir.path().join("ground_truth/scratch/1_mask.png");
    write(&mask, 320, 160, |x, y| if y == 52 && x < 160 { 255 } else { 0 });
    let real = load(dir.path(), INPUT, None).unwrap().defects;
    assert_eq!((real.len(), real[0].name.as_str(), real[0].class.as_str()), (1, "scratch/1.png", "scratch"));
    assert!(real[0].is_exact() && real[0].pixels == vec![90; 1024]);
    let marked: Vec<usize> = (0..1024).filter(|i| real[0].mask[*i] == 1.0).collect();
    assert_eq!(marked, (10 * 32..10 * 32 + 16).collect::<Vec<_>>());

    write(&mask, 320, 160, |x, y| if (x, y) == (319, 159) { 255 } else { 0 });
    let real = load(dir.path(), INPUT, None).unwrap().defects;
    assert_eq!((real[0].mask.iter().sum::<f32>(), real[0].mask[1023]), (1.0, 1.0), "one pixel of 51,200");
}

#[test]
fn boxes_say_somewhere_here_and_nothing_says_somewhere() {
    let dir = folder();
    assert_eq!(load(dir.path(), INPUT, None).unwrap().defects[0].mask, vec![0.5; 1024]);
    std::fs::write(
        dir.path().join("boxes.csv"),
        "file,x1,y1,x2,y2,type\nscratch/1.png,0,0,20,10,a\nscratch/1.png,300,150,320,160,b\n",
    )
    .unwrap();
    let defects = load(dir.path(), INPUT, None).unwrap().defects;
    let mask = &defects[0].mask;
    assert_eq!(mask.iter().filter(|m| **m == 0.5).count(), 8);
    assert_eq!((mask[0], mask[33], mask[2], mask[1023]), (0.5, 0.5, 0.0, 0.5));
}

#[test]
fn a_mask_of_another_size_or_without_mark_or_picture_is_told() {
    let dir = folder();
    let mask = dir.path().join("ground_truth/scratch/1_mask.png");
    write(&mask, 160, 320, |_, _| 255);
    let said = error(dir.path());
    for words in ["1_mask.png is 160 x 320", "1.png is 320 x 160"] {
        assert!(said.contains(words), "{said}");
    }
    write(&mask, 320, 160, |_, _| 0);
    assert!(error(dir.path()).contains("marks no defect"), "{}", error(dir.path()));
    std::fs::rename(&mask, mask.with_file_name("1.png")).unwrap();
    assert!(error(dir.path()).contains("scratch/NAME_mask.png"), "{}", error(dir.path()));
}

#[test]
fn a_broken_box_is_told_with_its_line() {
    let dir = folder();
    for (rows, words) in [
        ("file,x1,y1,x2\n", "line 1: no column `y2`"),
        ("file,x1,y1,x2,y2\nscratch/2.png,0,0,1,1\n", "line 2: there is no picture `scratch/2.png`"),
        ("file,x1,y1,x2,y2\nscratch/1.png,0,0,x,1\n", "`x` is not a number"),
        ("file,x1,y1,x2,y2\nscratch/1.png,0,0,9,9\nscratch/1.png,5,0,5,9\n", "line 3: the box"),
        ("file,x1,y1,x2,y2\nscratch/1.png,0,0,321,9\n", "320 x 160"),
        ("file,x1,y1,x2,y2\nscratch/1.png,NaN,0,3,9\n", "does not lie"),
        ("file,x1,y1,x2,y2\nscratch/1.png,0,0\n", "line 2"),
    ] {
        std::fs::write(dir.path().join("boxes.csv"), rows).unwrap();
        assert!(error(dir.path()).contains(words), "expected {words}: {}", error(dir.path()));
    }
}

#[test]
fn goods_and_test_sets_are_not_taken_for_defects() {
    for (stray, words) in
        [("good/1.png", "goods are no defects"), ("test/a.png", "data set"), ("1.png", "without a class")]
    {
        let dir = folder();
        write(&dir.path().join(stray), 32, 32, |_, _| 90);
        assert!(error(dir.path()).contains(words), "{stray}: {}", error(dir.path()));
    }
    let empty = tempfile::tempdir().unwrap();
    assert!(error(empty.path()).contains("found 0 pictures"));
    assert!(error(&empty.path().join("nowhere")).contains("not a folder"));
}

#[test]
fn a_region_cuts_picture_mask_and_boxes_alike() {
    let dir = folder();
    write(&dir.path().join("scratch/lot2/2.png"), 320, 160, |x, _| if x < 160 { 50 } else { 150 });
    let mask = dir.path().join("ground_truth/scratch/lot2/2_mask.png");
    write(&mask, 320, 160, |x, y| u8::from(x >= 304 && y < 10)); // dark, as masks of class numbers are
    std::fs::write(dir.path().join("boxes.csv"), "file,x1,y1,x2,y2\nscratch/1.png,0,0,170,5\n").unwrap();
    let right = |x| Some(Roi { x, y: 0, width: 160, height: 160 });
    let known = load(dir.path(), INPUT, right(160)).unwrap();
    assert!(known.notes.is_empty());
    let marked = |k: usize| (0..1024).filter(|i| known.defects[k].mask[*i] > 0.0).collect::<Vec<_>>();
    assert_eq!(marked(0), [0, 1], "10 of 160 pixels are 2 of 32");
    assert_eq!(known.defects[1].name, "scratch/lot2/2.png");
    assert_eq!(known.defects[1].pixels, vec![150; 1024]);
    assert_eq!(marked(1), [29, 30, 31, 61, 62, 63], "16 x 10 of 160 pixels are 3.2 x 2 of 32");

    let known = load(dir.path(), INPUT, Some(Roi { x: 171, y: 6, width: 100, height: 100 }));
    assert!(known.unwrap_err().to_string().contains("all 2 pictures lie outside --roi"));
    let known = load(dir.path(), INPUT, Some(Roi { x: 0, y: 0, width: 100, height: 100 })).unwrap();
    assert_eq!(known.defects.len(), 1);
    assert!(known.notes[0].contains("1 of 2") && known.notes[0].contains("2.png"), "{:?}", known.notes);
    let error = load(dir.path(), INPUT, right(200)).unwrap_err().to_string();
    assert!(error.contains("1.png") && error.contains("320x160"), "{error}");
}

#[test]
fn a_region_that_no_window_holds_is_of_no_use_to_windows() {
    let of = |mask: Vec<f32>| RealDefect { name: "a/1.png".into(), class: "a".into(), pixels: vec![], mask };
    let wide =
        |mark: f32| of((0..1024).map(|i| if i / 32 == 3 && i % 32 < 20 { mark } else { 0.0 }).collect());
    assert!(wide(1.0).fits(16) && !wide(0.5).fits(16) && wide(0.5).fits(20) && !of(vec![0.5; 1024]).fits(16));
    let right: Vec<f32> = (0..1024).map(|i| f32::from(u8::from(i % 32 >= 20))).collect();
    assert!(!wide(1.0).is_seen(&right) && of(vec![0.5; 1024]).is_seen(&right));
}

//! Which files are pictures of good parts, and which group each belongs to.
//!
//! Never here: reading pictures (see [`super::load`]).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use inspect_core::image::is_image_path;

use super::{DataError, MAX_GOODS, MIN_GOODS, Picture, manifest};

/// Finds the goods under `dir` to fit on, in order of name: at least [`MIN_GOODS`].
///
/// Errors: [`DataError`].
pub fn find_goods(dir: &Path) -> Result<Vec<Picture>, DataError> {
    find_some(dir, MIN_GOODS)
}

/// Finds the goods under `dir`, in order of name, if there are `least` and no more than [`MAX_GOODS`].
///
/// Errors: [`DataError`].
pub fn find_some(dir: &Path, least: usize) -> Result<Vec<Picture>, DataError> {
    if !dir.is_dir() {
        return Err(DataError::NotAFolder { path: dir.to_owned() });
    }
    let train = dir.join("train").join("good");
    let layout = train.is_dir();
    let base = if layout { train.as_path() } else { dir };
    let paths = images_below(base)?;
    // A plain folder of goods holds no test pictures, at whatever depth: they would be taken for goods.
    if !layout && (dir.join("test").is_dir() || paths.iter().any(|p| is_judged(dir, p))) {
        return Err(DataError::NoTrainGood { path: dir.to_owned() });
    }
    let pictures = grouped(dir, base, paths)?;
    check_count(dir, &pictures, least)?;
    Ok(pictures)
}

fn check_count(dir: &Path, pictures: &[Picture], least: usize) -> Result<(), DataError> {
    let count = |expected: String, advice| {
        Err(DataError::Count { path: dir.to_owned(), got: pictures.len(), expected, advice })
    };
    match pictures.len() {
        0 => count(
            format!("at least {least}"),
            "check the path (links to folders are not followed); `inspectd capture` takes pictures through a station's camera",
        ),
        n if n < least => count(
            format!("at least {least}"),
            "take more pictures of good parts: some 30 give a provisional threshold, 100 and more a proven one",
        ),
        n if n > MAX_GOODS => count(format!("at most {MAX_GOODS}"), "take a sample of them"),
        _ => Ok(()),
    }
}

/// Leaves out the pictures that the file `list` names, one a line; empty lines and those that start with `#`
/// count for nothing. What stays must still be `least`.
///
/// Errors: [`DataError::Exclude`] if the list cannot be read or names a picture that is not there;
/// [`DataError::Count`].
pub fn exclude(
    dir: &Path,
    pictures: Vec<Picture>,
    list: &Path,
    least: usize,
) -> Result<Vec<Picture>, DataError> {
    let bad = |reason: String| DataError::Exclude { path: list.to_owned(), reason };
    let bytes = std::fs::read(list).map_err(|e| bad(e.to_string()))?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim);
    let mut out: BTreeSet<&str> = lines.filter(|l| !l.is_empty()).collect();
    let kept = pictures.into_iter().filter(|p| !out.remove(p.name.trim())).collect::<Vec<_>>();
    // A picture's name may start with # as well.
    if let Some(name) = out.iter().find(|l| !l.starts_with('#')) {
        return Err(bad(format!("`{name}` is no picture below {}", dir.display())));
    }
    check_count(dir, &kept, least)?;
    Ok(kept)
}

/// Whether a picture lies in a folder of test pictures or masks.
fn is_judged(dir: &Path, path: &Path) -> bool {
    let below = path.strip_prefix(dir).unwrap_or(path);
    below.components().any(|c| {
        let name = c.as_os_str().to_string_lossy().to_lowercase();
        name == "test" || name == "ground_truth"
    })
}

/// The group of each: by `manifest.csv` in `dir`, else the folder right below `base` where there are several,
/// else the picture is a group of its own.
fn grouped(dir: &Path, base: &Path, paths: Vec<PathBuf>) -> Result<Vec<Picture>, DataError> {
    let manifest = manifest::read(&dir.join("manifest.csv"))?;
    let folder = |path: &Path| {
        let below = path.strip_prefix(base).unwrap_or(path);
        let first = below.parent().and_then(|p| p.components().next());
        first.map(|c| c.as_os_str().to_string_lossy().into_owned()).unwrap_or_default()
    };
    let folders: BTreeSet<String> = paths.iter().map(|p| folder(p)).collect();
    let mut listed = 0;
    let mut named = |path: PathBuf| {
        let name = name_below(dir, &path);
        let row = manifest.get(&name);
        listed += usize::from(row.is_some());
        let group = match row.map(|r| &r.group).filter(|group| !group.is_empty()) {
            Some(group) => group.clone(),
            None => {
                Some(folder(&path)).filter(|f| folders.len() > 1 && !f.is_empty()).unwrap_or(name.clone())
            }
        };
        Picture { path, group, name }
    };
    let pictures: Vec<Picture> = paths.into_iter().map(&mut named).collect();
    // One that lists test pictures alone is no mistake.
    if listed == 0
        && !pictures.is_empty()
        && !manifest.is_empty()
        && !manifest.keys().any(|f| dir.join(f).exists())
    {
        let reason =
            format!("none of its rows names a picture that is there, such as `{}`", pictures[0].name);
        return Err(DataError::Manifest { path: dir.join("manifest.csv"), reason });
    }
    Ok(pictures)
}

/// `path` as seen from `dir`, with `/`; bytes that are no UTF-8 are replaced.
pub fn name_below(dir: &Path, path: &Path) -> String {
    let below = path.strip_prefix(dir).unwrap_or(path);
    below.components().map(|c| c.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

/// Every image file below `dir`, in order of name. Hidden files and folders are left out, links to folders are
/// not followed.
///
/// Errors: [`DataError::Io`], which names the folder.
pub fn images_below(dir: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |source| DataError::Io { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        } else if path.is_dir() {
            if !path.is_symlink() {
                found.extend(images_below(&path)?);
            }
        } else if is_image_path(&path) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Notes on identical pictures in different groups: on both sides of a split they make a threshold too low.
pub fn duplicate_notes(groups: &[String], names: &[String], digests: &[[u8; 32]]) -> Vec<String> {
    let mut first = BTreeMap::<&[u8; 32], usize>::new();
    let mut doubles = Vec::new();
    for (i, digest) in digests.iter().enumerate() {
        let earlier = *first.entry(digest).or_insert(i);
        if groups[earlier] != groups[i] {
            doubles.push(format!("{} = {}", names[earlier], names[i]));
        }
    }
    if doubles.is_empty() {
        return Vec::new();
    }
    let shown = doubles.iter().take(MOST_DOUBLES).cloned().collect::<Vec<_>>().join(", ");
    let more = if doubles.len() > MOST_DOUBLES { ", …" } else { "" };
    vec![format!(
        "{} pictures are identical to one of another group ({shown}{more}): they may be fitted on and held out \
         at once, and the threshold gets too low. Remove them, or put both into one subfolder.",
        doubles.len()
    )]
}

/// Most pairs that a note names.
const MOST_DOUBLES: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"x").unwrap(); // finding does not read pictures
        }
        dir
    }

    fn groups(dir: &Path) -> Vec<String> {
        find_goods(dir).unwrap().into_iter().map(|p| p.group).collect()
    }

    /// `count` names below each of two lots.
    fn lots(below: &str, count: usize) -> Vec<String> {
        let names = |lot: &str| (0..count).map(|i| format!("{below}{lot}/{i:02}.png")).collect::<Vec<_>>();
        [names("lot1/a"), names("lot2")].concat()
    }

    #[test]
    fn the_top_folder_is_the_group_in_both_layouts() {
        for below in ["train/good/", ""] {
            let files = lots(below, 8);
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            let expected = [vec!["lot1"; 8], vec!["lot2"; 8]].concat();
            assert_eq!(groups(dir.path()), expected, "{below:?}");
        }
    }

    #[test]
    fn test_pictures_are_never_taken_for_goods_at_whatever_depth() {
        for stray in ["bottle/test/broken/1.png", "bottle/ground_truth/broken/1.png", "Test/good/1.png"] {
            let mut files = lots("bottle/train/good/", 8);
            files.push(stray.to_owned());
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            assert!(matches!(find_goods(dir.path()), Err(DataError::NoTrainGood { .. })), "{stray}");
        }
    }

    #[test]
    fn a_manifest_groups_both_layouts_and_one_that_fits_nothing_is_an_error() {
        for below in ["train/good/", ""] {
            let files = lots(below, 8);
            let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
            let manifest = dir.path().join("manifest.csv");
            std::fs::write(&manifest, format!("file,group\n{},shift9\n", files[0])).unwrap();
            assert_eq!(groups(dir.path())[0], "shift9");
            std::fs::write(&manifest, "file,group\nelsewhere.png,shift9\n").unwrap();
            let error = find_goods(dir.path()).unwrap_err().to_string();
            assert!(error.contains("manifest.csv") && error.contains("00.png"), "{error}");
        }
    }

    #[test]
    fn a_list_leaves_pictures_out_and_a_name_that_is_not_there_is_an_error() {
        let files = lots("", 8);
        let dir = folder(&files.iter().map(String::as_str).collect::<Vec<_>>());
        let (found, list) = (find_goods(dir.path()).unwrap(), dir.path().join("out.txt"));
        std::fs::write(&list, format!("\u{feff}# blurred\r\n\r\n {} \r\n", files[3])).unwrap();
        let kept = exclude(dir.path(), found.clone(), &list, MIN_GOODS).unwrap();
        assert_eq!(kept.len(), 15);
        assert!(kept.iter().all(|p| p.name != files[3]));
        std::fs::write(&list, "nowhere.png").unwrap();
        let error = exclude(dir.path(), found.clone(), &list, MIN_GOODS).unwrap_err().to_string();
        assert!(error.contains("`nowhere.png`") && error.contains("--exclude"), "{error}");
        std::fs::write(&list, files.join("\n")).unwrap();
        assert!(matches!(exclude(dir.path(), found, &list, MIN_GOODS), Err(DataError::Count { .. })));
    }

    #[test]
    fn identical_pictures_are_noted_only_across_groups() {
        let names: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let groups: Vec<String> = ["lot1", "lot1", "lot2"].map(String::from).into();
        assert!(duplicate_notes(&groups, &names, &[[1; 32], [1; 32], [2; 32]]).is_empty());
        let notes = duplicate_notes(&groups, &names, &[[1; 32], [2; 32], [1; 32]]);
        assert!(notes[0].contains("a = c"), "{notes:?}");
    }
}

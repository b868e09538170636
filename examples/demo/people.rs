//! The people of the examples, made from `examples/data`: see the README there for the sources and the rules.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use super::write_whole;

const FEBRL: &str = include_str!("../data/febrl2.csv");
const CDNOW: &str = include_str!("../data/CDNOW_sample.txt");

const FEBRL_COLUMNS: [&str; 11] = [
    "rec_id",
    "given_name",
    "surname",
    "street_number",
    "address_1",
    "address_2",
    "suburb",
    "postcode",
    "state",
    "date_of_birth",
    "soc_sec_id",
];

/// The mobile numbers that the Australian regulator ACMA keeps free for works of fiction, all thirty of them, behind +61.
///
/// Everybody else gets a landline number: the mobile numbers in between belong to real people.
const FICTION_MOBILES: [u32; 30] = [
    491_570_006,
    491_570_156,
    491_570_157,
    491_570_158,
    491_570_159,
    491_570_110,
    491_570_313,
    491_570_737,
    491_571_266,
    491_571_491,
    491_571_804,
    491_572_549,
    491_572_665,
    491_572_983,
    491_573_770,
    491_573_087,
    491_574_118,
    491_574_632,
    491_575_254,
    491_575_789,
    491_576_398,
    491_576_801,
    491_577_426,
    491_577_644,
    491_578_957,
    491_578_148,
    491_578_888,
    491_579_212,
    491_579_760,
    491_579_455,
];

/// Everybody the examples know, in the order of FEBRL's numbers.
pub(crate) struct People {
    /// The customers; every one of them has bought something.
    pub(crate) persons: Vec<Person>,
    /// Copies of customers as another system spelt them; they belong to `people.csv`.
    pub(crate) copies: Vec<Person>,
    /// What the customers bought, in the order of the CDNOW file.
    pub(crate) purchases: Vec<Purchase>,
}

/// One customer, or one copy of a customer. An empty text means "not known"; FEBRL leaves fields out on purpose.
#[derive(Clone)]
pub(crate) struct Person {
    /// FEBRL's number N, counted from 0: a copy has the number of its original.
    pub(crate) number: usize,
    /// `demo:rec-N`; empty for a copy.
    pub(crate) external_id: String,
    pub(crate) given_name: String,
    pub(crate) surname: String,
    /// As the source writes it: copies have capitals and blanks in it.
    pub(crate) email: String,
    /// As people write it (`+61 2 7010 0031`); empty for a copy.
    pub(crate) phone: String,
    pub(crate) street: String,
    /// Name of a building or property.
    pub(crate) line2: String,
    pub(crate) suburb: String,
    pub(crate) postcode: String,
    pub(crate) state: String,
    /// `YYYY-MM-DD`.
    pub(crate) born: String,
}

/// One line of the CDNOW file.
pub(crate) struct Purchase {
    /// `cdnow-` and the line's number, counted from 1: the same customer can buy the same twice on one day.
    pub(crate) order_id: String,
    /// The buyer's external id.
    pub(crate) external_id: String,
    /// `YYYY-MM-DD`.
    pub(crate) date: String,
    /// Number of CDs.
    pub(crate) cds: u32,
    /// US cents; 0 happens.
    pub(crate) cents: u64,
}

/// The files written by [`People::write_csv`].
pub(crate) struct CsvFiles {
    /// Those who do not live on the web site, then all the copies.
    pub(crate) people: PathBuf,
    /// Rows of `people`, without the header.
    pub(crate) people_rows: usize,
    /// Everybody's purchases.
    pub(crate) purchases: PathBuf,
    /// Rows of `purchases`, without the header.
    pub(crate) purchase_rows: usize,
}

impl Person {
    /// Whether this customer is shown on the web site; the others come by `people.csv`.
    pub(crate) fn on_site(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    /// Given name and surname, as far as they are known.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.given_name, self.surname).trim().to_owned()
    }
}

impl People {
    /// Everybody, from the two files in `examples/data`; they are part of the program, so it runs from any folder.
    pub(crate) fn load() -> Result<Self> {
        Self::parse(FEBRL, CDNOW)
    }

    /// Joins a FEBRL file and a CDNOW file: the n-th original, by number, is the n-th buyer. The error names the file and
    /// the line that cannot be read.
    pub(crate) fn parse(febrl: &str, cdnow: &str) -> Result<Self> {
        let (originals, copies) = read_febrl(febrl).context("FEBRL file")?;
        let lines = read_cdnow(cdnow).context("CDNOW file")?;
        let buyers = lines.iter().map(|line| line.sample_id).max().unwrap_or(0);
        ensure!(
            buyers <= originals.len(),
            "the CDNOW file has {buyers} customers, the FEBRL file only {} originals: use a larger FEBRL file",
            originals.len()
        );

        // In the order of the numbers: the map is sorted.
        let persons: Vec<Person> = originals
            .into_iter()
            .take(buyers)
            .enumerate()
            .map(|(index, (number, record))| record.customer(number, index))
            .collect();
        let emails: HashMap<usize, &str> = persons
            .iter()
            .map(|person| (person.number, person.email.as_str()))
            .collect();
        let copies = copies
            .into_iter()
            .filter_map(|((number, copy), record)| {
                emails.get(&number).map(|email| record.copy(number, copy, email))
            })
            .collect();
        let purchases = lines
            .into_iter()
            .map(|line| {
                let buyer = line.sample_id.checked_sub(1).and_then(|index| persons.get(index));
                let buyer = buyer.context("CDNOW file: sample ids start at 1")?;
                Ok(Purchase {
                    order_id: format!("cdnow-{}", line.number),
                    external_id: buyer.external_id.clone(),
                    date: line.date,
                    cds: line.cds,
                    cents: line.cents,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            persons,
            copies,
            purchases,
        })
    }

    /// The customers that the web site shows, in its order.
    pub(crate) fn on_site(&self) -> impl Iterator<Item = &Person> {
        self.persons.iter().filter(|person| person.on_site())
    }

    /// Writes `people.csv` and `purchases.csv` into `folder`, which is made when it is missing. The same people make the
    /// same bytes, and a file is replaced only as a whole, so a run that was killed is simply started again.
    pub(crate) fn write_csv(&self, folder: &Path) -> Result<CsvFiles> {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;

        let mut text = String::from(
            "external_id,given_name,surname,email,phone,street,line2,suburb,postcode,state,country,date_of_birth\r\n",
        );
        let mut people_rows = 0;
        for person in self
            .persons
            .iter()
            .filter(|person| !person.on_site())
            .chain(&self.copies)
        {
            csv_row(
                &mut text,
                &[
                    &person.external_id,
                    &person.given_name,
                    &person.surname,
                    &person.email,
                    &person.phone,
                    &person.street,
                    &person.line2,
                    &person.suburb,
                    &person.postcode,
                    &person.state,
                    "AU",
                    &person.born,
                ],
            );
            people_rows += 1;
        }
        let people = folder.join("people.csv");
        write_whole(&people, text.as_bytes())
            .with_context(|| format!("cannot write {}", people.display()))?;

        let mut text = String::from("order_id,external_id,date,cds,dollars\r\n");
        for purchase in &self.purchases {
            let dollars = format!("{}.{:02}", purchase.cents / 100, purchase.cents % 100);
            let cds = purchase.cds.to_string();
            csv_row(
                &mut text,
                &[
                    &purchase.order_id,
                    &purchase.external_id,
                    &purchase.date,
                    &cds,
                    &dollars,
                ],
            );
        }
        let purchases = folder.join("purchases.csv");
        write_whole(&purchases, text.as_bytes())
            .with_context(|| format!("cannot write {}", purchases.display()))?;
        Ok(CsvFiles {
            people,
            people_rows,
            purchases,
            purchase_rows: self.purchases.len(),
        })
    }
}

/// One line of FEBRL, without its id.
struct Record<'a> {
    given_name: &'a str,
    surname: &'a str,
    street_number: &'a str,
    address_1: &'a str,
    address_2: &'a str,
    suburb: &'a str,
    postcode: &'a str,
    state: &'a str,
    date_of_birth: &'a str,
}

impl Record<'_> {
    fn customer(&self, number: usize, index: usize) -> Person {
        let external_id = format!("demo:rec-{number}");
        self.person(number, external_id, self.email(number), phone(index, self.state))
    }

    /// The copy with the same address written as hastily as people do it.
    fn copy(&self, number: usize, copy: usize, email: &str) -> Person {
        let email = match copy % 3 {
            0 => email.to_uppercase(),
            1 => format!("  {email} "),
            _ => format!(" {}", capitals(email)),
        };
        self.person(number, String::new(), email, String::new())
    }

    fn person(&self, number: usize, external_id: String, email: String, phone: String) -> Person {
        Person {
            number,
            external_id,
            given_name: capitals(self.given_name),
            surname: capitals(self.surname),
            email,
            phone,
            street: capitals(format!("{} {}", self.street_number, self.address_1).trim()),
            line2: capitals(self.address_2),
            suburb: capitals(self.suburb),
            postcode: self.postcode.to_owned(),
            state: self.state.to_uppercase(),
            born: iso_date(self.date_of_birth).unwrap_or_default(),
        }
    }

    /// `given.surname.N@example.com`; the number makes it one person's.
    fn email(&self, number: usize) -> String {
        let mut local = String::new();
        for name in [self.given_name, self.surname] {
            let letters = name
                .chars()
                .filter(char::is_ascii_alphanumeric)
                .map(|c| c.to_ascii_lowercase());
            let before = local.len();
            local.extend(letters);
            if local.len() > before {
                local.push('.');
            }
        }
        let domain = if number.is_multiple_of(3) {
            "example.org"
        } else {
            "example.com"
        };
        format!("{local}{number}@{domain}")
    }
}

/// The number of the `index`-th customer: nobody's in the real world, and nobody else's in this one.
fn phone(index: usize, state: &str) -> String {
    if let Some(mobile) = FICTION_MOBILES.get(index) {
        return format!(
            "+61 {} {:03} {:03}",
            mobile / 1_000_000,
            mobile / 1000 % 1000,
            mobile % 1000
        );
    }
    let area = match state {
        "vic" | "tas" => 3,
        "qld" => 7,
        "sa" | "wa" | "nt" => 8,
        _ => 2,
    };
    format!("+61 {area} 7010 {index:04}")
}

type Originals<'a> = BTreeMap<usize, Record<'a>>;
type Copies<'a> = BTreeMap<(usize, usize), Record<'a>>;

fn read_febrl(text: &str) -> Result<(Originals<'_>, Copies<'_>)> {
    let mut lines = text.lines().zip(1..);
    let (header, _) = lines.next().context("the file is empty")?;
    ensure!(
        header.split(',').map(str::trim).eq(FEBRL_COLUMNS),
        "line 1: the columns are not those of FEBRL: {}",
        FEBRL_COLUMNS.join(", ")
    );
    let (mut originals, mut copies) = (BTreeMap::new(), BTreeMap::new());
    for (line, at) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        let count = fields.len();
        let [
            rec_id,
            given_name,
            surname,
            street_number,
            address_1,
            address_2,
            suburb,
            postcode,
            state,
            date_of_birth,
            _,
        ] = fields[..]
        else {
            bail!("line {at}: {count} fields instead of {}", FEBRL_COLUMNS.len());
        };
        let record = Record {
            given_name,
            surname,
            street_number,
            address_1,
            address_2,
            suburb,
            postcode,
            state,
            date_of_birth,
        };
        let parts: Vec<&str> = rec_id.split('-').collect();
        let taken = match parts[..] {
            ["rec", number, "org"] => originals.insert(whole(number, at)?, record).is_some(),
            ["rec", number, "dup", copy] => copies
                .insert((whole(number, at)?, whole(copy, at)?), record)
                .is_some(),
            _ => bail!("line {at}: rec_id is neither rec-N-org nor rec-N-dup-K"),
        };
        ensure!(!taken, "line {at}: {rec_id} is there twice");
    }
    Ok((originals, copies))
}

/// One line of CDNOW.
struct Line {
    number: usize,
    sample_id: usize,
    date: String,
    cds: u32,
    cents: u64,
}

fn read_cdnow(text: &str) -> Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, sample_id, date, cds, dollars] = fields[..] else {
            bail!("line {number}: {} fields instead of 5", fields.len());
        };
        lines.push(Line {
            number,
            sample_id: whole(sample_id, number)?,
            date: iso_date(date)
                .with_context(|| format!("line {number}: the date is not a day as YYYYMMDD"))?,
            cds: u32::try_from(whole(cds, number)?)?,
            cents: cents(dollars)
                .with_context(|| format!("line {number}: the dollars are not a number with two places"))?,
        });
    }
    ensure!(!lines.is_empty(), "the file is empty");
    Ok(lines)
}

fn whole(text: &str, line: usize) -> Result<usize> {
    text.parse()
        .with_context(|| format!("line {line}: {text:?} is not a whole number"))
}

fn cents(dollars: &str) -> Option<u64> {
    let (whole, places) = dollars.split_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if places.len() != 2 || !digits(places) || !digits(whole) {
        return None;
    }
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(100)?
        .checked_add(places.parse().ok()?)
}

/// `YYYYMMDD` as `YYYY-MM-DD`, when there is such a day.
fn iso_date(text: &str) -> Option<String> {
    if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, month, day) = (text.get(..4)?, text.get(4..6)?, text.get(6..)?);
    let number: u32 = year.parse().ok()?;
    let leap = number.is_multiple_of(4) && (!number.is_multiple_of(100) || number.is_multiple_of(400));
    let days = match month {
        "01" | "03" | "05" | "07" | "08" | "10" | "12" => 31,
        "04" | "06" | "09" | "11" => 30,
        "02" if leap => 29,
        "02" => 28,
        _ => return None,
    };
    (1..=days)
        .contains(&day.parse::<u32>().ok()?)
        .then(|| format!("{year}-{month}-{day}"))
}

/// `o'garey` as `O'Garey`, `browne's reef` as `Browne's Reef`: FEBRL is all lower case.
fn capitals(text: &str) -> String {
    let mut letters = 0;
    text.chars()
        .map(|letter| {
            let written = if letters == 0 {
                letter.to_ascii_uppercase()
            } else {
                letter
            };
            letters = match letter {
                _ if letter.is_ascii_alphanumeric() => letters + 1,
                // A quote goes on with the word, except behind the one letter of O'Garey or D'Arcy.
                '\'' if letters > 1 => letters,
                _ => 0,
            };
            written
        })
        .collect()
}

/// One row of RFC 4180; a field that begins or ends with a blank is quoted too, so that nobody takes the blank away unseen.
fn csv_row(text: &mut String, fields: &[&str]) {
    for (index, field) in fields.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        if field.contains([',', '"', '\r', '\n']) || field.trim() != *field {
            let _ = write!(text, "\"{}\"", field.replace('"', "\"\""));
        } else {
            text.push_str(field);
        }
    }
    text.push_str("\r\n");
}

//! What kind of place an address is: so that it is known who may lead where.
//!
//! Ways to write or to carry an IPv4 address inside an IPv6 one (mapped, translated, NAT64, 6to4) count as the
//! address that they lead to in the end.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who can be reached at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    /// Anybody on the internet.
    Public,
    /// Those of one organisation or provider (RFC 1918, RFC 4193, RFC 6598).
    Private,
    /// This machine.
    Loopback,
    /// Hosts on the same link, and what clouds put there.
    LinkLocal,
    /// A cloud's service that tells a machine its secrets, and asks for none.
    Metadata,
    /// Nobody, or many: unspecified, multicast, broadcast, reserved.
    NoHost,
}

impl AddressKind {
    pub(super) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::of_v4(address),
            IpAddr::V6(address) => Self::of_v6(address),
        }
    }

    /// Whether a registry at an address of this kind may lead to one of that kind: to what anybody could reach,
    /// and to what is as near as it is itself. What is a machine's own link is nobody's to lead to.
    pub(super) fn leads_to(self, there: Self) -> bool {
        match there {
            Self::Public => true,
            Self::Private => self != Self::Public,
            Self::Loopback => self == Self::Loopback,
            Self::LinkLocal | Self::Metadata | Self::NoHost => false,
        }
    }

    fn of_v4(address: Ipv4Addr) -> Self {
        match address.octets() {
            // AWS, Azure, Google and most others; AWS for containers; Oracle; Alibaba; Azure's WireServer.
            [169, 254, 169, 254] | [169, 254, 170, 2] | [192, 0, 0, 192] => Self::Metadata,
            [100, 100, 100, 200] | [168, 63, 129, 16] => Self::Metadata,
            [169, 254, ..] => Self::LinkLocal,
            [127, ..] => Self::Loopback,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            // Carriers' NAT, and networks for benchmarks (RFC 2544).
            [100, 64..=127, ..] | [198, 18..=19, ..] => Self::Private,
            // "This network", of which the kernel makes loopback; protocols'; multicast, reserved and broadcast.
            [0, ..] | [192, 0, 0, _] | [224..=255, ..] => Self::NoHost,
            _ => Self::Public,
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        match address.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Self::NoHost,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            // Compatible, mapped and translated (RFC 4291 §2.5.5, RFC 2765), NAT64 (RFC 6052 §2.1).
            [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
            | [0, 0, 0, 0, 0xffff, 0, high, low]
            | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Self::of_v4(v4(high, low)),
            // 6to4 (RFC 3056).
            [0x2002, high, low, ..] => Self::of_v4(v4(high, low)),
            // AWS, Google and Oracle.
            [0xfd00, 0xec2, ..]
            | [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254]
            | [0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe] => Self::Metadata,
            // A NAT64 of one's own may translate to anything near (RFC 8215).
            [0x64, 0xff9b, 1, ..] => Self::Private,
            // Unique local, and the site-local ones of old.
            [0xfc00..=0xfdff | 0xfec0..=0xfeff, ..] => Self::Private,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            // Teredo, discarded, multicast.
            [0x2001, 0, ..] | [0x100, 0, 0, 0, ..] | [0xff00..=0xffff, ..] => Self::NoHost,
            _ => Self::Public,
        }
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))
}

impl fmt::Display for AddressKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "a public address",
            Self::Private => "a private address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a metadata service",
            Self::NoHost => "the address of no host",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn kind(address: &str) -> AddressKind {
        AddressKind::of(address.parse().unwrap())
    }

    #[test]
    fn every_kind_of_address_is_known() {
        let table = [
            (
                AddressKind::Public,
                "8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 192.167.0.1 169.253.0.1 \
                 198.17.0.1 198.20.0.1 223.255.255.255 126.0.0.1 2606:4700::1111 2a00:1450::1 ::ffff:8.8.8.8 \
                 64:ff9b::808:808 2002:808:808::1",
            ),
            (
                AddressKind::Private,
                "10.0.0.1 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.1 100.64.0.0 100.127.255.255 \
                 198.18.0.1 198.19.255.255 fc00::1 fdff:ffff::1 fd00::1 fec0::1 ::ffff:10.0.0.1 ::10.0.0.1 \
                 ::ffff:0:10.0.0.1 64:ff9b::a00:1 64:ff9b:1::1 2002:a00:1:: 2002:c0a8:101::1",
            ),
            (
                AddressKind::Loopback,
                "127.0.0.1 127.0.0.0 127.255.255.255 127.1.2.3 ::1 ::ffff:127.0.0.1 ::127.0.0.1 64:ff9b::7f00:1 \
                 2002:7f00:1::",
            ),
            (
                AddressKind::LinkLocal,
                "169.254.0.1 169.254.255.255 fe80::1 febf::1 ::ffff:169.254.1.1 64:ff9b::a9fe:101 \
                 2002:a9fe:101::",
            ),
            (
                AddressKind::Metadata,
                "169.254.169.254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254 \
                 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe \
                 2002:a9fe:a9fe:: ::ffff:100.100.100.200",
            ),
            (
                AddressKind::NoHost,
                "0.0.0.0 0.1.2.3 255.255.255.255 224.0.0.1 239.255.255.255 240.0.0.1 192.0.0.1 :: ff02::1 100::1 \
                 2001::1 ::ffff:0.0.0.0 64:ff9b:: 2002::1",
            ),
        ];
        for (expected, addresses) in table {
            for address in addresses.split_whitespace() {
                assert_eq!(kind(address), expected, "{address}");
            }
        }
    }

    #[test]
    fn a_registry_leads_to_what_is_as_near_as_itself_and_no_nearer() {
        use AddressKind::{LinkLocal as Link, Loopback, Metadata, NoHost, Private, Public};
        let allowed = |own: AddressKind| -> Vec<AddressKind> {
            let all = [Public, Private, Loopback, Link, Metadata, NoHost];
            all.into_iter().filter(|there| own.leads_to(*there)).collect()
        };
        assert_eq!(allowed(Public), [Public]);
        assert_eq!(allowed(Private), [Public, Private]);
        assert_eq!(allowed(Loopback), [Public, Private, Loopback]);
        assert_eq!(allowed(Link), [Public, Private]);
    }

    proptest! {
        #[test]
        fn an_ipv4_address_is_the_same_however_ipv6_carries_it(bits: u32) {
            let address = Ipv4Addr::from(bits);
            let (high, low) = ((bits >> 16) as u16, bits as u16);
            let expected = AddressKind::of(address.into());
            let carried = [
                address.to_ipv6_mapped(),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
            ];
            for carried in carried {
                prop_assert_eq!(AddressKind::of(carried.into()), expected, "{}", carried);
            }
        }
    }
}

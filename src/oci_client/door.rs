//! How a request to a registry is written for each front door (docs/design.md §6).

use super::ImageReference;

/// A front door of a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Door {
    /// The registry goes along as `?ns=`; the door's URL, `http://host:port`.
    Mirror(String),
    /// The registry stands in front of the repository; the door's URL.
    Prefix(String),
    /// The registry's own URL: the HTTP client was built with the door as its proxy.
    Proxy,
}

impl Door {
    /// Where `path` in the image's repository is asked for.
    pub(super) fn url(&self, image: &ImageReference, path: &str) -> String {
        let ImageReference { host, repository, .. } = image;
        match self {
            Self::Mirror(door) => format!("{door}/v2/{repository}/{path}?ns={host}"),
            Self::Prefix(door) => format!("{door}/v2/{host}/{repository}/{path}"),
            Self::Proxy if host.is_docker_hub() => {
                format!("https://{}/v2/{repository}/{path}", host.dialled())
            }
            Self::Proxy => format!("https://{host}/v2/{repository}/{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_door_is_told_the_registry_in_its_own_way() {
        let image: ImageReference = "reg.test:5000/app/web:v7".parse().unwrap();
        let url = |door: Door| door.url(&image, "manifests/v7");
        let door = || "http://127.0.0.1:4001".to_owned();
        assert_eq!(
            url(Door::Mirror(door())),
            "http://127.0.0.1:4001/v2/app/web/manifests/v7?ns=reg.test:5000"
        );
        assert_eq!(url(Door::Prefix(door())), "http://127.0.0.1:4001/v2/reg.test:5000/app/web/manifests/v7");
        assert_eq!(url(Door::Proxy), "https://reg.test:5000/v2/app/web/manifests/v7");
        let alpine: ImageReference = "docker.io/alpine".parse().unwrap();
        assert_eq!(
            Door::Proxy.url(&alpine, "manifests/latest"),
            "https://registry-1.docker.io/v2/library/alpine/manifests/latest"
        );
    }
}

-- Docker Hub is `docker.io`, by whichever of its names it was set. What was said of it under that
-- name holds, and of the others the one that is dialled.
PRAGMA defer_foreign_keys = ON;

DELETE FROM registries WHERE host = 'index.docker.io'
    AND EXISTS (SELECT 1 FROM registries WHERE host IN ('docker.io', 'registry-1.docker.io'));
DELETE FROM registries WHERE host = 'registry-1.docker.io'
    AND EXISTS (SELECT 1 FROM registries WHERE host = 'docker.io');

UPDATE caps SET host = 'docker.io' WHERE host IN ('index.docker.io', 'registry-1.docker.io');
UPDATE endpoints SET host = 'docker.io' WHERE host IN ('index.docker.io', 'registry-1.docker.io');
UPDATE registries SET host = 'docker.io' WHERE host IN ('index.docker.io', 'registry-1.docker.io');

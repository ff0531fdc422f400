package synapse

// mediaTables: what is known of media; the files themselves lie beside the database.
func mediaTables() []Table {
	return []Table{
		{
			Name: "local_media_repository", Category: Core, Item: "im.lifeboat.media", Subject: []string{"media_id"},
			User:   []string{"user_id", "quarantined_by"},
			Source: "databases/main/media_repository.py",
		},
		{
			Name: "local_media_repository_thumbnails", Category: Core, Item: "im.lifeboat.media", Subject: []string{"media_id"},
			Source: "databases/main/media_repository.py",
		},
		{
			Name: "local_media_repository_url_cache", Category: Ephemeral,
			Reason: "previews of pages; fetched again", Source: "databases/main/media_repository.py",
		},
		{
			Name: "remote_media_cache", Category: Remote, Item: "im.lifeboat.media", Subject: []string{"media_origin", "media_id"},
			User:   []string{"quarantined_by"},
			Source: "databases/main/media_repository.py",
		},
		{
			Name: "remote_media_cache_thumbnails", Category: Remote, Item: "im.lifeboat.media", Subject: []string{"media_origin", "media_id"},
			Source: "databases/main/media_repository.py",
		},
		{
			Name: "quarantined_media_changes", Category: Core, Item: "im.lifeboat.media", Subject: []string{"origin", "media_id"},
			Source: "databases/main/room.py",
		},
	}
}

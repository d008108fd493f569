"""Messages for webhooks: written with the change they tell of, sent until each is taken."""

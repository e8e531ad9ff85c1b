"""What is known of a face before any network: photos read, faces found, cut, told apart, covered. No torch."""

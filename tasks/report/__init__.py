"""What people read: tables of rates on the terminal and in Markdown, and safe exports."""
